"""`avfuse ablate`: a paper's table by one command."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    from avfuse.manifests import Manifest
    from avfuse.pipeline.experiments.roles import RequestedFeature
    from avfuse.pipeline.experiments.schema import ExperimentTable


@click.command(short_help="A paper's table: every row trained, tested, and beside what was published.")
@click.argument("table", required=False)
@click.option("--dataset", default="demo", show_default=True, help="A data set that was listed before, or demo.")
@click.option(
    "--backbones",
    default="lite",
    show_default=True,
    help="What the table's roles stand for: paper, lite, or a .yaml file of your own.",
)
@seeds_option
@epochs_option
@settings_option
@click.option(
    "--grid",
    type=click.Choice(["small", "none"]),
    default="small",
    show_default=True,
    help="Learning rates and weight decays for validation to choose from, the same for all rows, or none.",
)
@click.option("--extract", is_flag=True, help="Extract what is not in the cache first.")
@click.option("--partial", is_flag=True, help="Run the rows whose features are there, and leave the others out.")
@click.option("--name", help="What to call the folder of results (default: the table and the backbones).")
@memory_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="How many rows train at a time (default: what cores and memory allow; one on a GPU).",
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
    partial: bool,
    name: str | None,
    memory_gib: float | None,
    jobs: int | None,
    device: str,
    cache: Path,
    runs: Path,
) -> None:
    """Train every row of a paper's table on cached features, with seeds, and print it beside what was published.

    TABLE is one of those listed without it, or a .yaml file of your own. Every row is trained with the paper's settings
    and with those that validation chooses from one small grid. Rows that are trained already are read back; a run that
    was broken off goes on. The table is written as CSV, Markdown and JSON, and as a page.

    \b
    Examples:
      avfuse ablate                                                     (lists the tables)
      avfuse ablate maivar-table2 --dataset demo
      avfuse ablate avt-table4 --dataset vggsound --backbones paper --extract
      avfuse ablate mmt --seeds 2 --epochs 3 --grid none                (a quick look)
    """
    from avfuse.pipeline.experiments.schema import load_backbones, load_table

    if table is None:
        _list()
        return
    chosen, map_of_roles = load_table(table), load_backbones(backbones)
    from avfuse.features.errors import UsageError
    from avfuse.features.name_rules import check_name
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.experiments.render import print_result, write_files
    from avfuse.pipeline.experiments.results import collect_results
    from avfuse.pipeline.experiments.roles import (
        extract_commands,
        find_cached,
        requested_features,
        require_some,
        row_features,
    )
    from avfuse.pipeline.experiments.rows import GRID, TableOptions
    from avfuse.pipeline.experiments.run_table import train_rows
    from avfuse.pipeline.provenance import describe_run
    from avfuse.stages.device import choose_device

    given: dict[str, Any] = {**assignments("--set", settings), **({} if epochs is None else {"epochs": str(epochs)})}
    if epochs is not None:
        given.setdefault("patience", str(epochs))
    manifest = load_manifest(cache, dataset)
    data_set = _published_data_set(manifest)
    rows, not_run = row_features(chosen, map_of_roles)
    require_some(rows, chosen, not_run)
    found, missing = find_cached(cache, manifest, requested_features(chosen, rows, data_set))
    if missing and extract:
        _extract(dataset, missing, device, cache)
        found, missing = find_cached(cache, manifest, requested_features(chosen, rows, data_set))
    if missing and not partial:
        todo = " && ".join(extract_commands(dataset, missing))
        raise UsageError(
            f"{len(missing)} features are not cached for '{dataset}': {todo} "
            "(or --extract; --partial leaves their rows out)"
        )
    for row, inputs in list(rows.items()):
        lacking = [each for named in inputs.values() for each in named if each in missing]
        if lacking:
            not_run[row] = f"not run: {lacking[0].name} is not cached ({extract_commands(dataset, lacking)[0]})"
            del rows[row]
    require_some(rows, chosen, not_run)
    features = {
        row: {modality: tuple(found[each] for each in named) for modality, named in inputs.items()}
        for row, inputs in rows.items()
    }
    machine = choose_device(device)
    options = TableOptions(
        seeds=seeds,
        settings=given,
        grid=GRID if grid == "small" else {},
        device=machine,
        memory_bytes=memory_bytes(machine, memory_gib),
        jobs=jobs,
    )
    folder = require_folder(runs / dataset, "--runs")
    place = folder / check_name(name or f"{chosen.name}-{map_of_roles.name}", "table")
    described = describe_run(manifest, shlex.join(["avfuse", *sys.argv[1:]]), cache)
    trained = train_rows(chosen, map_of_roles, features, manifest, cache, folder, options, described, data_set)
    changed = _changed(chosen, data_set, dataset, given)
    result = collect_results(chosen, map_of_roles, trained, not_run, manifest, described, data_set, changed)
    click.echo(print_result(result))
    written = write_files(result, place)
    click.echo(f"results in {place}: {', '.join(path.name for path in written)}")


def _list() -> None:
    from avfuse.pipeline.experiments.schema import backbones_names, load_backbones, load_table, table_names

    tables = [load_table(name) for name in table_names()]
    width = max(len(table.name) for table in tables)
    for table in tables:
        click.echo(f"{table.name:<{width}}  {table.title} ({len(table.trained)} rows to run)")
    click.echo()
    for name in backbones_names():
        click.echo(f"--backbones {name}: {' '.join(load_backbones(name).summary.split())}")


def _published_data_set(manifest: "Manifest") -> str | None:
    """The data set of the papers that a manifest is a listing of; None for others."""
    from avfuse.pipeline.experiments.schema import DATA_SETS

    builder = manifest.provenance.get("builder")
    return builder if builder in DATA_SETS else None


def _changed(table: "ExperimentTable", data_set: str | None, dataset: str, given: dict[str, Any]) -> list[str]:
    """What is not as the table or its paper has it, but for the networks."""
    elsewhere = table.data and data_set not in table.data
    found = [f"data set {dataset}, the paper has {' and '.join(table.data)}"] if elsewhere else []
    return [*found, *(f"{name}={value}" for name, value in given.items() if name != "patience")]


def _extract(dataset: str, missing: "Sequence[RequestedFeature]", device: str, cache: Path) -> None:
    require_folder(cache, "--cache")
    from avfuse.features.feature_names import resolve
    from avfuse.pipeline.experiments.roles import group_by_sampling
    from avfuse.pipeline.extraction import extract_data_set

    warn = partial(click.echo, err=True)
    for sampling, names in group_by_sampling(missing).items():
        if not extract_data_set(dataset, resolve(names, sampling), cache, log=click.echo, warn=warn, device=device):
            raise click.exceptions.Exit(1)
