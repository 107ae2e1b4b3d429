"""`avfuse report`: the page of a run, of several runs, or of a table."""

from pathlib import Path

import click

from avfuse.pipeline.cli.options import cache_option


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
    "--clips",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    help="Number of test clips with pictures and sound.",
)
@click.option("--no-sound", is_flag=True, help="Without sound: smaller, with room for more clips.")
@click.option("--no-maps", is_flag=True, help="Without heatmaps: faster, features are not read.")
@click.option(
    "--limit",
    "megabytes",
    metavar="MB",
    type=click.FloatRange(min=6),
    default=10,
    show_default=True,
    help="Maximum size of the page; fewer clips are shown where they exceed it.",
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

    It shows results, figures, test clips with picture and sound, and provenance. Nothing is trained, and the page needs
    no network. For a folder that avfuse ablate wrote it is the page of the table.

    \b
    Examples:
      avfuse report runs/demo/demo -o demo.html
      avfuse report runs/clips/all runs/clips/chroma:mlp -o both.html
      avfuse report runs/demo/demo --clips 60 --no-sound --limit 20
      avfuse report runs/demo/maivar-table2-lite
    """
    from avfuse.pipeline.report.page.clips import PageOptions
    from avfuse.pipeline.report.write import write_report

    options = PageOptions(clips, not no_sound, not no_maps, round(megabytes * 1e6))
    for line in write_report(runs, cache, options, output):
        click.echo(line)
