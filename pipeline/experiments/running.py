"""Training the rows of a table: each with the paper's own settings, and over a small grid that validation chooses from.

Trained heads lie under runs/<data set>/heads/, in a folder each for what they depend on: a row that two tables share is
trained once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from features.errors import UsageError
from manifests import Manifest
from pipeline.experiments.roles import needs_banks
from pipeline.experiments.schema import Backbones, Table, TableRow
from stages.fuse.data import FusionData, load_data, usable_clips
from stages.fuse.experiment import Pick, run_experiment
from stages.fuse.heads import get_head
from stages.fuse.runs import HeadRun, Run
from stages.fuse.trainer import Parents
from stages.fuse.training import Training, knows

GRID: Mapping[str, tuple[str, ...]] = {"lr": ("1e-4", "3e-4", "1e-3"), "weight_decay": ("0", "0.05")}
"""Every row's, so that none is compared at settings that suit another."""

Inputs = Mapping[str, tuple[str, ...]]
"""Cached features by modality, as `load_data` takes them."""


@dataclass(frozen=True)
class How:
    """How a table is run. settings: the user's, which go before the table's; grid: empty for none."""

    seeds: int = 5
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: GRID)
    device: str = "cpu"
    memory_bytes: int | None = None


@dataclass(frozen=True)
class TrainedRow:
    """A row's heads, one a seed. own: with the paper's settings; tuned: those that validation chose, with their values.
    untrained: features of random weights."""

    row: TableRow
    run: Run
    own: list[HeadRun]
    tuned: list[HeadRun]
    chosen: str
    settings: Mapping[str, Any]
    features: Inputs
    untrained: tuple[str, ...]


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
    _check_known(how, rows)
    manifest = _same_clips(manifest, cache, list(features.values()))
    trained: dict[str, TrainedRow] = {}
    parents = Parents()
    with tqdm(total=0, unit="epoch", desc=table.name, disable=not progress) as bar:
        for inputs, same in _by_inputs(rows, features):
            banks = any(needs_banks(settings[row.id]) for row in same)
            data = load_data(manifest, cache, inputs, how.device, how.memory_bytes, banks=banks)
            plain = replace(data, banks=None)
            for row in same:
                bar.set_postfix(row=row.id)
                own_data = data if needs_banks(settings[row.id]) else plain
                trained[row.id] = _train(row, own_data, inputs, settings[row.id], folder, how, described, parents, bar)
    return [trained[row.id] for row in rows]


def settings_of(table: Table, row: TableRow, backbones: Backbones, how: How, data_set: str | None) -> dict[str, Any]:
    """Of one row: the paper's, those that suit the features here, the user's. What means nothing to the head, as a
    table's settings are for all rows, is left out."""
    assert row.head is not None
    every = {**table.settings_of(row, data_set), **backbones.settings, **how.settings}
    return {name: value for name, value in every.items() if knows(row.head, name)}


def _check_known(how: How, rows: Sequence[TableRow]) -> None:
    for name in how.settings:
        if not any(row.head is not None and knows(row.head, name) for row in rows):
            raise UsageError(f"no head of this table has a setting '{name}'")


def _same_clips(manifest: Manifest, cache: Path, every: Sequence[Inputs]) -> Manifest:
    """With the clips that all rows can use."""
    distinct = {json.dumps(inputs): inputs for inputs in every}.values()
    usable = set.intersection(*(usable_clips(manifest, cache, inputs) for inputs in distinct))
    return replace(manifest, table=manifest.table[manifest.table["clip_id"].isin(usable)].reset_index(drop=True))


def _by_inputs(rows: Iterable[TableRow], features: Mapping[str, Inputs]) -> Iterator[tuple[Inputs, list[TableRow]]]:
    """Rows that see the same features together, so that these are loaded once."""
    together: dict[str, list[TableRow]] = {}
    for row in rows:
        together.setdefault(json.dumps(features[row.id]), []).append(row)
    for same in together.values():
        yield features[same[0].id], same


def _train(
    row: TableRow,
    data: FusionData,
    inputs: Inputs,
    settings: Mapping[str, Any],
    folder: Path,
    how: How,
    described: Mapping[str, Any],
    parents: Parents,
    bar: "tqdm[Any]",
) -> TrainedRow:
    head = row.head
    assert head is not None

    def train(given: Mapping[str, Any], sweep: Mapping[str, Sequence[str]], pick: Pick | None = None) -> Run:
        place = folder / "heads" / f"{head}-{_key(data, head, given, sweep)}"
        run = run_experiment(
            data,
            place,
            [head],
            how.seeds,
            Training(**given),
            described,
            sweep=sweep,
            pick=pick,
            parents=parents,
            progress=bar,
        )
        asked = {name: [one for one in runs if one.seed < how.seeds] for name, runs in run.heads.items()}
        return replace(run, heads={name: runs for name, runs in asked.items() if runs})

    grid = {} if get_head(head).fits_at_once else how.grid
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
    recipe = Training(**settings).recipe(head)
    for values in product(*grid.values()):
        if all(float(value) == float(getattr(recipe, name)) for name, value in zip(grid, values, strict=True)):
            return ",".join([head, *(f"{name}={value}" for name, value in zip(grid, values, strict=True))])
    return None
