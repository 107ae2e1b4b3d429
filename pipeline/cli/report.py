"""`avfuse report`: the page of a run, of several side by side, or of a table."""

from pathlib import Path

import click

from avfuse.pipeline.cli.options import cache_option
from avfuse.pipeline.output_paths import require_file


@click.command(short_help="Write the page of a run, of several, or of a table.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The HTML file (default: report.html in the run's folder, table.html in a table's; of several runs, or of a "
    "single row, report.html in the folder around the first).",
)
@click.option(
    "--clips", type=click.IntRange(min=0), default=24, show_default=True, help="Test clips with pictures and sound."
)
@click.option("--no-sound", is_flag=True, help="Leave the sound out: smaller, and room for more clips.")
@click.option("--no-maps", is_flag=True, help="Leave out what heads look at: quicker, and features are not loaded.")
@click.option(
    "--limit",
    "megabytes",
    metavar="MB",
    type=click.FloatRange(min=6),
    default=10,
    show_default=True,
    help="How large the page may become; fewer clips are shown where they would take it over that.",
)
@cache_option
def report(
    runs: tuple[str, ...],
    output: Path | None,
    clips: int,
    no_sound: bool,
    no_maps: bool,
    megabytes: float,
    cache: Path,
) -> None:
    """Write one self-contained HTML page of RUN, a folder under runs/, or FOLDER:ROW, or of several of one data set.

    It shows results, figures, test clips with sound and picture, and where everything came from; nothing is trained
    again, and the page needs no network. Of a folder that avfuse ablate wrote it is the page of that table.

    \b
    Examples:
      avfuse report runs/demo/demo -o demo.html
      avfuse report runs/clips/all runs/clips/chroma:mlp -o both.html
      avfuse report runs/demo/demo --clips 60 --no-sound --limit 20
      avfuse report runs/demo/maivar-table2-lite
    """
    from avfuse.features.errors import UsageError
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.report import print_table
    from avfuse.pipeline.report.page import merge, write_page, write_table_page
    from avfuse.pipeline.report.page.clips import PageOptions
    from avfuse.pipeline.report.run_reference import RunRef, is_table, read_run_ref
    from avfuse.stages.fuse.runs.restore import load_rows
    from avfuse.stages.fuse.runs.summary import summarise

    if tables := [run for run in runs if is_table(Path(run))]:
        if len(runs) > 1:
            raise UsageError(f"{tables[0]} is a table, which has a page of its own: name it alone, or {tables[0]}:ROW")
        page = write_table_page(Path(tables[0]), require_file(output or Path(tables[0]) / "table.html", "-o"))
        click.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
        return
    if twice := next((run for run in runs if runs.count(run) > 1), None):
        raise UsageError(f"{twice} is named twice: once is enough")
    refs = [RunRef(load_rows(Path(run)), None) if Path(run).is_dir() else read_run_ref(run) for run in runs]
    shown = merge(refs)
    whole = len(refs) == 1 and Path(runs[0]).is_dir()
    folder = refs[0].run.folder if whole else refs[0].run.folder.parent
    target = require_file(output or folder / "report.html", "-o")
    manifest = load_manifest(cache, shown.runs[0].described["dataset"])
    for run in shown.runs:
        click.echo(print_table(run, summarise(run)))
    wanted = PageOptions(clips, not no_sound, not no_maps, round(megabytes * 1e6))
    click.echo(write_page(shown, manifest, cache, target, wanted).words)
