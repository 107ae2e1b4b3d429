"""Training one row after the other: each with the paper's own settings, and over a small grid that validation chooses
from.

Trained heads lie under runs/<data set>/heads/, in a folder each for what they depend on: a row that two tables share is
trained once.
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
"""Every row's, so that none is compared at settings that suit another."""

Inputs = Mapping[str, tuple[str, ...]]
"""Cached features by modality, as `load_data` takes them."""


@dataclass(frozen=True)
class TableOptions:
    """Options of a table's run. settings: the user's, which go before the table's; grid: empty for none; jobs: how many
    rows at a time, in processes of their own; None for as many as suit the machine."""

    seeds: int = 5
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: GRID)
    device: str = "cpu"
    memory_bytes: int | None = None
    jobs: int | None = None


@dataclass(frozen=True)
class TrainedRow:
    """A row's heads, one a seed. own: with the paper's settings; tuned: those that validation chose, with their values.
    untrained: features of random weights."""

    row: TableRow
    run: Run
    own: list[SeedResult]
    tuned: list[SeedResult]
    chosen: str
    settings: Mapping[str, Any]
    features: Inputs
    untrained: tuple[str, ...]


@dataclass(frozen=True)
class TableJob:
    """What rows of a table are trained from. manifest: of the clips that every row can use; folder: of the data set's
    runs; features, settings: by row."""

    table: ExperimentTable
    features: Mapping[str, Inputs]
    settings: Mapping[str, Mapping[str, Any]]
    manifest: Manifest
    cache: Path
    folder: Path
    options: TableOptions
    described: Mapping[str, Any]

    @property
    def rows(self) -> list[TableRow]:
        """Those that have features, one after the other where they see the same."""
        together: dict[str, list[TableRow]] = {}
        for row in self.table.trained:
            if row.id in self.features:
                together.setdefault(json.dumps(self.features[row.id]), []).append(row)
        return [row for same in together.values() for row in same]

    @property
    def epochs(self) -> int:
        """How many are trained at most, of all heads."""
        points = math.prod(map(len, self.options.grid.values()))
        of_each = self.options.seeds * (2 if points == 1 else 2 + points)
        return sum(
            of_each * TrainingOverrides(**self.settings[row.id]).recipe(str(row.head)).epochs for row in self.rows
        )


class RowTrainer:
    """Trains rows one by one, and keeps what the next may use: features, and heads that others start from."""

    def __init__(self, job: TableJob) -> None:
        self.job = job
        self.parents = ParentHeads()
        self._loaded: tuple[tuple[Inputs, bool], FusionData] | None = None

    def train(self, row: TableRow, bar: Bar) -> TrainedRow:
        """Raises UsageError as load_data and run_experiment do."""
        job, settings = self.job, self.job.settings[row.id]
        bar.set_postfix(row=row.id, refresh=False)
        data, inputs = self._data(row), job.features[row.id]
        return _train(row, data, inputs, settings, job.folder, job.options, job.described, self.parents, bar)

    def _data(self, row: TableRow) -> FusionData:
        job = self.job
        wanted = job.features[row.id], needs_filter_banks(job.settings[row.id])
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            options = job.options
            data = load_data(job.manifest, job.cache, wanted[0], options.device, options.memory_bytes, banks=wanted[1])
            self._loaded = wanted, data
        return self._loaded[1]


def _train(
    row: TableRow,
    data: FusionData,
    inputs: Inputs,
    settings: Mapping[str, Any],
    folder: Path,
    options: TableOptions,
    described: Mapping[str, Any],
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
            described,
            sweep=sweep,
            pick=pick,
            parents=parents,
            progress=bar,
        )
        asked = {name: [one for one in runs if one.seed < options.seeds] for name, runs in run.heads.items()}
        return replace(run, heads={name: runs for name, runs in asked.items() if runs})

    grid = {} if get_head(head).fits_without_epochs else options.grid
    own_row, best = _row_of(head, settings, grid), ""

    def tested(scores: Mapping[str, float]) -> set[str]:
        nonlocal best
        best = max(scores, key=scores.__getitem__)
        return {best} if own_row is None else {best, own_row}

    swept = train({n: value for n, value in settings.items() if n not in grid}, grid, tested) if grid else None
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


def _row_of(head: str, settings: Mapping[str, Any], grid: Mapping[str, tuple[str, ...]]) -> str | None:
    """The row of the grid that has the paper's own values; None where it is not among them."""
    if not grid:
        return None
    recipe = TrainingOverrides(**settings).recipe(head)
    for values in product(*grid.values()):
        if all(float(value) == float(getattr(recipe, name)) for name, value in zip(grid, values, strict=True)):
            return ",".join([head, *(f"{name}={value}" for name, value in zip(grid, values, strict=True))])
    return None
