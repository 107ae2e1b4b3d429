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
from avfuse.pipeline.experiments.rows import How, Inputs, RowTrainer, TrainedRow, Work
from avfuse.pipeline.experiments.schema import Backbones, Table, TableRow
from avfuse.stages.fuse.data.dataset import usable_clips
from avfuse.stages.fuse.training.overrides import knows


def train_rows(
    table: Table,
    backbones: Backbones,
    features: Mapping[str, Inputs],
    manifest: Manifest,
    cache: Path,
    folder: Path,
    how: How,
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
    settings = {row.id: settings_of(table, row, backbones, how, data_set) for row in rows}
    _check_known(table, how)
    manifest = _same_clips(manifest, cache, list(features.values()))
    work = Work(table, features, settings, manifest, cache, folder, how, described)
    with tqdm(total=0, unit="epoch", desc=table.name, disable=not progress) as bar:
        if (processes := processes_for(work)) > 1:
            trained = train_in_processes(work, processes, bar)
        else:
            one_by_one = RowTrainer(work)
            trained = {row.id: one_by_one.train(row, bar) for row in work.rows}
    return [trained[row.id] for row in rows]


def settings_of(table: Table, row: TableRow, backbones: Backbones, how: How, data_set: str | None) -> dict[str, Any]:
    """Of one row: the paper's, those that suit the features here, the user's; a user's own table goes before what suits
    the features. What means nothing to the head, as a table's settings are for all rows, is left out."""
    assert row.head is not None
    of_table = table.settings_of(row, data_set)
    chosen = {**of_table, **backbones.settings} if table.data else {**backbones.settings, **of_table}
    every = {**chosen, **how.settings}
    return {name: value for name, value in every.items() if knows(row.head, name)}


def _check_known(table: Table, how: How) -> None:
    heads = [row.head for row in table.trained if row.head is not None]
    for name in [*how.settings, *table.settings]:
        if not any(knows(head, name) for head in heads):
            raise UsageError(f"no head of this table has a setting '{name}'")
    for row in table.trained:
        for name in row.settings:
            if row.head is not None and not knows(row.head, name):
                raise UsageError(f"row {row.id}: head '{row.head}' has no setting '{name}'")


def _same_clips(manifest: Manifest, cache: Path, every: Sequence[Inputs]) -> Manifest:
    """With the clips that all rows can use."""
    distinct = {json.dumps(inputs): inputs for inputs in every}.values()
    usable = set.intersection(*(usable_clips(manifest, cache, inputs) for inputs in distinct))
    return replace(manifest, table=manifest.table[manifest.table["clip_id"].isin(usable)].reset_index(drop=True))
