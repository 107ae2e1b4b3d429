"""Training the rows of a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest
from avfuse.pipeline.experiments.parallel import processes_for, train_in_processes
from avfuse.pipeline.experiments.rows import Inputs, RowTrainer, TableJob, TableOptions, TrainedRow
from avfuse.pipeline.experiments.schema import Backbones, ExperimentTable, TableRow
from avfuse.stages.fuse.data.dataset import usable_clips
from avfuse.stages.fuse.training.overrides import accepts_setting


def train_rows(
    table: ExperimentTable,
    backbones: Backbones,
    features: Mapping[str, Inputs],
    manifest: Manifest,
    cache: Path,
    folder: Path,
    options: TableOptions,
    described: Mapping[str, Any],
    data_set: str | None,
    *,
    progress: bool = True,
) -> list[TrainedRow]:
    """Train what is not trained yet of the rows that have features, in the table's order.

    All rows are trained and tested on the same clips: those that every row can use. folder: of the data set's runs.
    data_set: the one of the papers' that this is, if any.

    Raises UsageError as load_data and run_experiment do, and for a setting that no head of the table has.
    """
    rows = [row for row in table.trained if row.id in features]
    settings = {row.id: settings_of(table, row, backbones, options, data_set) for row in rows}
    _check_known(table, options)
    manifest = _same_clips(manifest, cache, list(features.values()))
    job = TableJob(table, features, settings, manifest, cache, folder, options, described)
    with tqdm(total=0, unit="epoch", desc=table.name, disable=not progress) as bar:
        if (processes := processes_for(job)) > 1:
            trained = train_in_processes(job, processes, bar)
        else:
            one_by_one = RowTrainer(job)
            trained = {row.id: one_by_one.train(row, bar) for row in job.rows}
    return [trained[row.id] for row in rows]


def settings_of(
    table: ExperimentTable, row: TableRow, backbones: Backbones, options: TableOptions, data_set: str | None
) -> dict[str, Any]:
    """Of one row: the paper's, those that suit the features here, the user's; a user's own table goes before what suits
    the features. What means nothing to the head, as a table's settings are for all rows, is left out."""
    assert row.head is not None
    of_table = table.settings_of(row, data_set)
    chosen = {**of_table, **backbones.settings} if table.data else {**backbones.settings, **of_table}
    every = {**chosen, **options.settings}
    return {name: value for name, value in every.items() if accepts_setting(row.head, name)}


def _check_known(table: ExperimentTable, options: TableOptions) -> None:
    heads = [row.head for row in table.trained if row.head is not None]
    for name in [*options.settings, *table.settings]:
        if not any(accepts_setting(head, name) for head in heads):
            raise UsageError(f"no head of this table has a setting '{name}'")
    for row in table.trained:
        for name in row.settings:
            if row.head is not None and not accepts_setting(row.head, name):
                raise UsageError(f"row {row.id}: head '{row.head}' has no setting '{name}'")


def _same_clips(manifest: Manifest, cache: Path, every: Sequence[Inputs]) -> Manifest:
    """With the clips that all rows can use."""
    distinct = {json.dumps(inputs): inputs for inputs in every}.values()
    usable = set.intersection(*(usable_clips(manifest, cache, inputs) for inputs in distinct))
    return replace(manifest, table=manifest.table[manifest.table["clip_id"].isin(usable)].reset_index(drop=True))
