"""A table of an experiment file: features found or extracted, rows trained, results collected."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest, load_manifest
from avfuse.pipeline.experiments.parallel import processes_for, train_in_processes
from avfuse.pipeline.experiments.results import TableResult, collect_results
from avfuse.pipeline.experiments.roles import (
    RequestedFeature,
    extract_commands,
    find_cached,
    requested_features,
    require_some,
    row_features,
)
from avfuse.pipeline.experiments.rows import Inputs, RowTrainer, TableJob, TableOptions, TrainedRow
from avfuse.pipeline.experiments.schema import DATA_SETS, Backbones, ExperimentTable, TableRow
from avfuse.pipeline.output_paths import require_folder
from avfuse.pipeline.provenance import describe_run
from avfuse.stages.fuse.data.dataset import usable_clips
from avfuse.stages.fuse.training.overrides import accepts_setting


def run_table(
    table: ExperimentTable,
    backbones: Backbones,
    dataset: str,
    cache: Path,
    runs: Path,
    options: TableOptions,
    *,
    command: str,
    extract: Callable[[Sequence[RequestedFeature]], None] | None = None,
    skip_missing: bool = False,
) -> TableResult:
    """Train every row of a table and collect its results.

    Args:
        dataset: a data set whose manifest is in the cache.
        runs: the folder of runs; heads are kept under its folder of the data set.
        command: recorded in the results.
        extract: called with features that are not cached; None does not extract any.
        skip_missing: skip rows whose features are not cached, instead of raising.

    Raises UsageError where features are missing, where no row is left, and as `train_rows` does.
    """
    manifest = load_manifest(cache, dataset)
    builder = manifest.provenance.get("builder")
    data_set = builder if builder in DATA_SETS else None
    features, not_run = _cached_features(table, backbones, manifest, cache, data_set, extract, skip_missing)
    folder = require_folder(runs / dataset, "--runs")
    metadata = describe_run(manifest, command, cache)
    trained = train_rows(table, backbones, features, manifest, cache, folder, options, metadata, data_set)
    # deviations from the paper's protocol, apart from its networks
    changed = [f"{name}={value}" for name, value in options.settings.items() if name != "patience"]
    if table.data and data_set not in table.data:
        changed.insert(0, f"data set {dataset}, the paper has {' and '.join(table.data)}")
    return collect_results(table, backbones, trained, not_run, manifest, metadata, data_set, changed)


def _cached_features(
    table: ExperimentTable,
    backbones: Backbones,
    manifest: Manifest,
    cache: Path,
    data_set: str | None,
    extract: Callable[[Sequence[RequestedFeature]], None] | None,
    skip_missing: bool,
) -> tuple[dict[str, Inputs], dict[str, str]]:
    """Cached features of each row that can be run, and the reason why each other row cannot, both by the row's id."""
    rows, not_run = row_features(table, backbones)
    require_some(rows, table, not_run)
    cached, missing = find_cached(cache, manifest, requested_features(table, rows, data_set))
    if missing and extract is not None:
        extract(missing)
        cached, missing = find_cached(cache, manifest, requested_features(table, rows, data_set))
    if missing and not skip_missing:
        raise UsageError(
            f"{len(missing)} features are not cached for '{manifest.name}': "
            f"{' && '.join(extract_commands(manifest.name, missing))} (or --extract; --partial skips their rows)"
        )
    for row, inputs in list(rows.items()):
        lacking = [feature for features in inputs.values() for feature in features if feature in missing]
        if lacking:
            command = extract_commands(manifest.name, lacking)[0]
            not_run[row] = f"not run: {lacking[0].name} is not cached ({command})"
            del rows[row]
    require_some(rows, table, not_run)
    features: dict[str, Inputs] = {
        row: {modality: tuple(cached[feature] for feature in features) for modality, features in inputs.items()}
        for row, inputs in rows.items()
    }
    return features, not_run


def train_rows(
    table: ExperimentTable,
    backbones: Backbones,
    features: Mapping[str, Inputs],
    manifest: Manifest,
    cache: Path,
    folder: Path,
    options: TableOptions,
    metadata: Mapping[str, Any],
    data_set: str | None,
    *,
    progress: bool = True,
) -> list[TrainedRow]:
    """Train the rows that have features and are not trained yet. Returns all of them in the table's order.

    All rows are trained and tested on the same clips: those that every row can use.

    Args:
        features: cached features by the row's id.
        folder: of the data set's runs.
        metadata: of `describe_run`.
        data_set: the papers' data set that this is, if any.

    Raises UsageError as `load_data` and `run_experiment` do, and for a setting that no head of the table has.
    """
    rows = [row for row in table.trained if row.id in features]
    settings = {row.id: settings_of(table, row, backbones, options, data_set) for row in rows}
    _check_known(table, options)
    manifest = _shared_clips(manifest, cache, list(features.values()))
    job = TableJob(table, features, settings, manifest, cache, folder, options, metadata)
    with tqdm(total=0, unit="epoch", desc=table.name, disable=not progress) as bar:
        if (processes := processes_for(job)) > 1:
            trained = train_in_processes(job, processes, bar)
        else:
            trainer = RowTrainer(job)
            trained = {row.id: trainer.train(row, bar) for row in job.rows}
    return [trained[row.id] for row in rows]


def settings_of(
    table: ExperimentTable, row: TableRow, backbones: Backbones, options: TableOptions, data_set: str | None
) -> dict[str, Any]:
    """Settings of one row: the paper's, overridden by those of the map of backbones, overridden by the user's. A user's
    own table overrides the map. Settings that the head does not have are dropped, as a table's are for all rows."""
    assert row.head is not None
    of_table = table.settings_of(row, data_set)
    chosen = {**of_table, **backbones.settings} if table.data else {**backbones.settings, **of_table}
    settings = {**chosen, **options.settings}
    return {name: value for name, value in settings.items() if accepts_setting(row.head, name)}


def _check_known(table: ExperimentTable, options: TableOptions) -> None:
    heads = [row.head for row in table.trained if row.head is not None]
    for name in [*options.settings, *table.settings]:
        if not any(accepts_setting(head, name) for head in heads):
            raise UsageError(f"no head of this table has a setting '{name}'")
    for row in table.trained:
        for name in row.settings:
            if row.head is not None and not accepts_setting(row.head, name):
                raise UsageError(f"row {row.id}: head '{row.head}' has no setting '{name}'")


def _shared_clips(manifest: Manifest, cache: Path, inputs_of_rows: Sequence[Inputs]) -> Manifest:
    """The manifest of the clips that all rows can use."""
    distinct = {json.dumps(inputs): inputs for inputs in inputs_of_rows}.values()
    usable = set.intersection(*(usable_clips(manifest, cache, inputs) for inputs in distinct))
    return replace(manifest, table=manifest.table[manifest.table["clip_id"].isin(usable)].reset_index(drop=True))
