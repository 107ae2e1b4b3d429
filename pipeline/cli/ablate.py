"""`avfuse ablate`: a paper's table in one command."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avfuse.pipeline.cli.options import (
    assignments,
    cache_option,
    device_option,
    epochs_option,
    memory_bytes,
    memory_option,
    runs_option,
    seeds_option,
    settings_option,
)
from avfuse.pipeline.output_paths import require_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avfuse.pipeline.experiments.roles import RequestedFeature


@click.command(short_help="A paper's table: train and test every row, beside the published numbers.")
@click.argument("table", required=False)
@click.option("--dataset", default="demo", show_default=True, help="A data set that was listed before, or demo.")
@click.option(
    "--backbones",
    default="lite",
    show_default=True,
    help="Networks for the table's roles: paper, lite, or a .yaml file of your own.",
)
@seeds_option
@epochs_option
@settings_option
@click.option(
    "--grid",
    type=click.Choice(["small", "none"]),
    default="small",
    show_default=True,
    help="Grid of learning rates and weight decays for validation to choose from, the same for all rows, or none.",
)
@click.option("--extract", is_flag=True, help="Extract missing features first.")
@click.option("--partial", "skip_missing", is_flag=True, help="Skip rows whose features are not cached.")
@click.option("--name", help="Name of the folder of results (default: the table and the backbones).")
@memory_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Number of rows that train at a time (default: as cores and memory allow; one on a GPU).",
)
@device_option
@cache_option
@runs_option
def ablate(
    table: str | None,
    dataset: str,
    backbones: str,
    seeds: int,
    epochs: int | None,
    settings: tuple[str, ...],
    grid: str,
    extract: bool,
    skip_missing: bool,
    name: str | None,
    memory_gib: float | None,
    jobs: int | None,
    device: str,
    cache: Path,
    runs: Path,
) -> None:
    """Train every row of a paper's table on cached features, with seeds, and print it beside the published numbers.

    TABLE is one of those listed without it, or a .yaml file of your own. Every row is trained with the paper's settings
    and with those that validation chooses from one small grid. Trained rows are read back, and an interrupted run
    resumes. The table is written as CSV, Markdown and JSON, and as a page.

    \b
    Examples:
      avfuse ablate                                                     (lists the tables)
      avfuse ablate maivar-table2 --dataset demo
      avfuse ablate avt-table4 --dataset vggsound --backbones paper --extract
      avfuse ablate mmt --seeds 2 --epochs 3 --grid none                (a quick look)
    """
    if table is None:
        _list_tables()
        return
    from avfuse.features.name_rules import check_name
    from avfuse.pipeline.experiments.render import print_result, write_files
    from avfuse.pipeline.experiments.rows import GRID, TableOptions
    from avfuse.pipeline.experiments.run_table import run_table
    from avfuse.pipeline.experiments.schema import load_backbones, load_table
    from avfuse.stages.device import choose_device

    chosen, role_map = load_table(table), load_backbones(backbones)
    folder = runs / dataset / check_name(name or f"{chosen.name}-{role_map.name}", "table")
    given = assignments("--set", settings)
    if epochs is not None:
        given["epochs"] = str(epochs)
        given.setdefault("patience", str(epochs))
    machine = choose_device(device)
    options = TableOptions(
        seeds=seeds,
        settings=given,
        grid=GRID if grid == "small" else {},
        device=machine,
        memory_bytes=memory_bytes(machine, memory_gib),
        jobs=jobs,
    )
    result = run_table(
        chosen,
        role_map,
        dataset,
        cache,
        runs,
        options,
        command=shlex.join(["avfuse", *sys.argv[1:]]),
        extract=partial(_extract, dataset, device, cache) if extract else None,
        skip_missing=skip_missing,
    )
    click.echo(print_result(result))
    click.echo(f"results in {folder}: {', '.join(path.name for path in write_files(result, folder))}")


def _list_tables() -> None:
    from avfuse.pipeline.experiments.schema import backbones_names, load_backbones, load_table, table_names

    tables = [load_table(name) for name in table_names()]
    width = max(len(table.name) for table in tables)
    for table in tables:
        click.echo(f"{table.name:<{width}}  {table.title} ({len(table.trained)} rows to run)")
    click.echo()
    for name in backbones_names():
        click.echo(f"--backbones {name}: {' '.join(load_backbones(name).summary.split())}")


def _extract(dataset: str, device: str, cache: Path, missing: "Sequence[RequestedFeature]") -> None:
    require_folder(cache, "--cache")
    from avfuse.features.feature_names import resolve
    from avfuse.pipeline.experiments.roles import group_by_sampling
    from avfuse.pipeline.extraction import extract_data_set

    warn = partial(click.echo, err=True)
    for sampling, names in group_by_sampling(missing).items():
        if not extract_data_set(dataset, resolve(names, sampling), cache, log=click.echo, warn=warn, device=device):
            raise click.exceptions.Exit(1)
