"""`avfuse report`: the page of a run, again."""

from pathlib import Path

import click

from pipeline.cli.options import cache_option, require_folder


@click.command(short_help="Write the page of a run again.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The HTML file (default: report.html in the run)."
)
@cache_option
def report(run: Path, output: Path | None, cache: Path) -> None:
    """Write the page of RUN, a folder under runs/, from its saved predictions. Nothing is trained again.

    \b
    Example:
      avfuse report runs/demo/demo -o demo.html
    """
    from manifests import load_manifest
    from pipeline.report import print_table, write_page
    from stages.fuse.runs import load_run
    from stages.fuse.table import summarise

    loaded = load_run(run)
    target = output or run / "report.html"
    require_folder(target.parent, "-o")
    manifest = load_manifest(cache, loaded.described["dataset"])
    rows = summarise(loaded)
    click.echo(print_table(loaded, rows))
    click.echo(write_page(loaded, rows, manifest, target))
