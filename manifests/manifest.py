"""A manifest: the table of a data set's clips, its targets and its provenance."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.name_rules import check_name

SPLITS = ("train", "val", "test", "unlabelled")
"""`unlabelled` clips are only predicted on, as a challenge keeps their labels."""

SEPARATOR = "|"
"""Between the classes of a clip that has several."""

SCHEMA = pa.DataFrameSchema(
    {
        "clip_id": pa.Column(str, pa.Check.str_length(min_value=1), unique=True),
        "path": pa.Column(str, pa.Check.str_length(min_value=1)),
        "start": pa.Column(float, pa.Check.ge(0), nullable=True),
        "end": pa.Column(float, pa.Check.gt(0), nullable=True),
        "label": pa.Column(str, nullable=True),
        "split": pa.Column(str, pa.Check.isin(SPLITS)),
        "group": pa.Column(str, pa.Check.str_length(min_value=1)),
    },
    checks=pa.Check(
        lambda table: ~(table["end"] <= table["start"].fillna(0)), error="end is after start", name="interval"
    ),
    strict=True,
    coerce=True,
)
"""start and end in seconds, empty for the whole file; path relative to the root; label empty where there is none.
Targets other than `label` are further columns."""

COLUMNS = tuple(SCHEMA.columns)


@dataclass(frozen=True)
class Target:
    """A classification target: a column of the table whose cells name classes."""

    name: str
    """The column."""
    classes: tuple[str, ...] = ()
    """Classes in the order of a head's outputs; if empty, a manifest fills in those that occur, sorted."""
    several: bool = False
    """Whether a clip may have any number of classes (multi-label), joined by "|" in a cell."""

    def narrowed(self, table: pd.DataFrame) -> "Target":
        """The target with only those classes that occur in a table, in their order."""
        present = classes_in(table[self.name], self)
        return Target(self.name, tuple(name for name in self.classes if name in present), self.several)


@dataclass(frozen=True)
class Manifest:
    """A data set: a table of clips over media under one root. Raises UsageError that names the first invalid cell."""

    name: str
    collection: str
    """The name of the media in a cache, which several manifests (splits, subsets) may share."""
    root: Path
    """The folder of the media."""
    table: pd.DataFrame
    """A row per clip, as SCHEMA says."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The builder, its revision and its options."""
    outside_root: bool = False
    """Whether paths may leave the root; a table from elsewhere could use them to have any file read."""
    targets: tuple[Target, ...] = (Target("label"),)
    """Targets that heads learn; one without a class on any clip is dropped."""

    def __post_init__(self) -> None:
        check_name(self.name, "data set")
        check_name(self.collection, "collection")
        object.__setattr__(self, "table", validate(self.table, self.name, [target.name for target in self.targets]))
        filled = [target if target.classes else _fill_classes(target, self.table) for target in self.targets]
        object.__setattr__(self, "targets", tuple(target for target in filled if target.classes))
        for target in self.targets:
            _check_classes(self.table, target, self.name)
        if not self.outside_root:
            _check_inside(self.table["path"].unique().tolist(), self.name, self.root)

    def __len__(self) -> int:
        return len(self.table)

    def clips(self) -> list[Clip]:
        """The clips in the table's order."""
        return [
            Clip(
                clip_id=row.clip_id,
                path=self.root / row.path,
                start=None if pd.isna(row.start) else float(row.start),
                end=None if pd.isna(row.end) else float(row.end),
            )
            for row in self.table.itertuples(index=False)
        ]

    def summary(self) -> str:
        """One line: clips by split, classes, groups, and where the media are."""
        counts = self.table["split"].value_counts()
        parts = ", ".join(f"{counts[split]} {split}" for split in SPLITS if split in counts)
        several = len(self.targets) > 1
        labels = ", ".join(
            f"{len(target.classes)} {f'{target.name} ' if several else ''}classes" for target in self.targets
        )
        groups = self.table["group"].nunique()
        return (
            f"{self.name}: {len(self)} clips ({parts}), {labels or 'no labels'}, {groups} groups, media in {self.root}"
        )


def _check_inside(paths: list[str], name: str, root: Path) -> None:
    """Raise UsageError for a path that leaves the root as it is written; links below the root may lead anywhere."""
    for path in paths:
        normal = os.path.normpath(path)
        if os.path.isabs(normal) or normal == os.pardir or normal.startswith(os.pardir + os.sep):
            raise UsageError(
                f"manifest '{name}': path {path} leaves the root {root}: move the file there, or allow such paths "
                "(OUTSIDE_ROOT=1, --outside-root)"
            )


def parse_classes(cell: str | None) -> list[str]:
    """The classes in a cell of a multi-label target; none for an empty cell."""
    return [part for part in cell.split(SEPARATOR) if part] if isinstance(cell, str) else []


def classes_in(cells: pd.Series, target: Target) -> set[str]:
    """The classes of a target that occur in cells."""
    values = cells.dropna().unique()
    return {name for cell in values for name in parse_classes(cell)} if target.several else set(values)


def _fill_classes(target: Target, table: pd.DataFrame) -> Target:
    return Target(target.name, tuple(sorted(classes_in(table[target.name], target))), target.several)


def _check_classes(table: pd.DataFrame, target: Target, name: str) -> None:
    if len(set(target.classes)) != len(target.classes):
        raise UsageError(f"manifest '{name}': a class of '{target.name}' is listed twice")
    unknown = sorted(classes_in(table[target.name], target) - set(target.classes))
    if unknown:
        raise UsageError(
            f"manifest '{name}': column '{target.name}' names '{unknown[0]}', which is none of its "
            f"{len(target.classes)} classes"
        )


def validate(table: pd.DataFrame, name: str, targets: Iterable[str] = ()) -> pd.DataFrame:
    """Check a table against SCHEMA, with columns for further targets. Raises UsageError that names the first invalid
    cell."""
    more = {target: pa.Column(str, nullable=True) for target in targets if target not in COLUMNS}
    try:
        return SCHEMA.add_columns(more).validate(table.reset_index(drop=True), lazy=True)
    except (pa.errors.SchemaErrors, pa.errors.SchemaError) as error:
        raise UsageError(f"manifest '{name}': {_first_problem(error)}") from error


def _first_problem(error: pa.errors.SchemaErrors | pa.errors.SchemaError) -> str:
    cases = getattr(error, "failure_cases", None)
    if not isinstance(cases, pd.DataFrame) or cases.empty:
        return str(error).splitlines()[0]
    case = cases.iloc[0]
    column = case["column"] if pd.notna(case.get("column")) else case["failure_case"]
    where = f", row {int(case['index'])}" if pd.notna(case.get("index")) else ""
    return f"column '{column}'{where}: {case['failure_case']!r} breaks the rule {case['check']}"
