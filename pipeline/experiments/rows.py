"""Training of a table's rows, each with the paper's settings and over a small grid that validation chooses from.

Heads are kept in runs/<data set>/heads/, one folder per data, head and settings: rows that two tables share train once.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from avfuse.manifests import Manifest
from avfuse.pipeline.experiments.roles import needs_filter_banks
from avfuse.pipeline.experiments.schema import ExperimentTable, TableRow
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.runs.experiment import Bar, Pick, run_experiment
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import ParentHeads

GRID: Mapping[str, tuple[str, ...]] = {"lr": ("1e-4", "3e-4", "1e-3"), "weight_decay": ("0", "0.05")}
"""The same for every row, so that none is compared at settings that suit another."""

Inputs = Mapping[str, tuple[str, ...]]
"""Cached features by modality, as `load_data` takes them."""


@dataclass(frozen=True)
class TableOptions:
    """Options of a table's run."""

    seeds: int = 5
    settings: Mapping[str, Any] = field(default_factory=dict)  # the user's, which override the table's
    grid: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: GRID)  # empty for no grid
    device: str = "cpu"
    memory_bytes: int | None = None  # for features; what does not fit is streamed
    jobs: int | None = None  # rows that train at a time, each in a process; None suits the machine


@dataclass(frozen=True)
class TrainedRow:
    """A row's trained heads, one per seed."""

    row: TableRow
    run: Run
    own: list[SeedResult]  # with the paper's settings
    tuned: list[SeedResult]  # with the grid's settings that validation chose
    chosen: str  # these settings, such as `lr=1e-4, weight_decay=0`
    settings: Mapping[str, Any]
    features: Inputs
    untrained: tuple[str, ...]  # features from random weights


@dataclass(frozen=True)
class TableJob:
    """Everything that the rows of a table are trained from."""

    table: ExperimentTable
    features: Mapping[str, Inputs]  # by the row's id
    settings: Mapping[str, Mapping[str, Any]]  # by the row's id
    manifest: Manifest  # of the clips that every row can use
    cache: Path
    folder: Path  # of the data set's runs
    options: TableOptions
    described: Mapping[str, Any]  # of `describe_run`

    @property
    def rows(self) -> list[TableRow]:
        """Rows with features; rows with equal features follow each other."""
        groups: dict[str, list[TableRow]] = {}
        for row in self.table.trained:
            if row.id in self.features:
                groups.setdefault(json.dumps(self.features[row.id]), []).append(row)
        return [row for group in groups.values() for row in group]

    @property
    def epochs(self) -> int:
        """Maximum number of epochs of all heads."""
        points = math.prod(map(len, self.options.grid.values()))
        heads = self.options.seeds * (2 if points == 1 else 2 + points)
        return sum(heads * TrainingOverrides(**self.settings[row.id]).recipe(str(row.head)).epochs for row in self.rows)


class RowTrainer:
    """Trains rows one by one; loaded features and parent heads are kept for the next row."""

    def __init__(self, job: TableJob) -> None:
        self.job = job
        self.parents = ParentHeads()
        self._loaded: tuple[tuple[Inputs, bool], FusionData] | None = None

    def train(self, row: TableRow, bar: Bar) -> TrainedRow:
        """Train a row. Raises UsageError as `load_data` and `run_experiment` do."""
        job, settings = self.job, self.job.settings[row.id]
        bar.set_postfix(row=row.id, refresh=False)
        data, inputs = self._data(row), job.features[row.id]
        return _train(row, data, inputs, settings, job.folder, job.options, job.described, self.parents, bar)

    def _data(self, row: TableRow) -> FusionData:
        job = self.job
        inputs = job.features[row.id], needs_filter_banks(job.settings[row.id])
        if self._loaded is None or self._loaded[0] != inputs:
            self._loaded = None
            options = job.options
            data = load_data(job.manifest, job.cache, inputs[0], options.device, options.memory_bytes, banks=inputs[1])
            self._loaded = inputs, data
        return self._loaded[1]


def _train(
    row: TableRow,
    data: FusionData,
    inputs: Inputs,
    settings: Mapping[str, Any],
    folder: Path,
    options: TableOptions,
    metadata: Mapping[str, Any],
    parents: ParentHeads,
    bar: Bar,
) -> TrainedRow:
    head = row.head
    assert head is not None

    def train(given: Mapping[str, Any], sweep: Mapping[str, Sequence[str]], pick: Pick | None = None) -> Run:
        place = folder / "heads" / f"{head}-{_key(data, head, given, sweep)}"
        run = run_experiment(
            data,
            place,
            [head],
            options.seeds,
            TrainingOverrides(**given),
            metadata,
            sweep=sweep,
            pick=pick,
            parents=parents,
            progress=bar,
        )
        heads = {name: [seed for seed in seeds if seed.seed < options.seeds] for name, seeds in run.heads.items()}
        return replace(run, heads={name: seeds for name, seeds in heads.items() if seeds})

    grid = {} if get_head(head).fits_without_epochs else options.grid
    own_row, best = _grid_row(head, settings, grid), ""

    def pick(scores: Mapping[str, float]) -> set[str]:
        """Rows of the grid to test: the best on validation, and the paper's own."""
        nonlocal best
        best = max(scores, key=scores.__getitem__)
        return {best} if own_row is None else {best, own_row}

    swept = train({n: value for n, value in settings.items() if n not in grid}, grid, pick) if grid else None
    own = train(settings, {}) if swept is None or own_row is None else swept
    own_heads = own.heads[own_row or head]
    return TrainedRow(
        row=row,
        run=swept or own,
        own=own_heads,
        tuned=own_heads if swept is None else swept.heads[best],
        chosen=best.partition(",")[2].replace(",", ", "),
        settings=settings,
        features=inputs,
        untrained=tuple(own.described["untrained"]),
    )


def _key(data: FusionData, head: str, given: Mapping[str, Any], sweep: Mapping[str, Sequence[str]]) -> str:
    content = [data.fingerprint, head, {name: str(value) for name, value in given.items()}, list(sweep.items())]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def _grid_row(head: str, settings: Mapping[str, Any], grid: Mapping[str, tuple[str, ...]]) -> str | None:
    """The grid's row with the paper's own values; None where the grid lacks them."""
    if not grid:
        return None
    recipe = TrainingOverrides(**settings).recipe(head)
    for values in product(*grid.values()):
        if all(float(value) == float(getattr(recipe, name)) for name, value in zip(grid, values, strict=True)):
            return ",".join([head, *(f"{name}={value}" for name, value in zip(grid, values, strict=True))])
    return None
