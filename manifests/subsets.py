"""Subsets of a data set: a fraction, a number of clips or a fold; and the validation split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.manifests.description import DatasetDescription
from avfuse.manifests.splits import group_folds, group_holdout, sample_clips


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Selection of a data set's clips, and their splits; by default all clips, with the splits they have."""

    fraction: float | None = None
    """Share of each split."""
    clips: Mapping[str, int] | None = None
    """Number of clips per split; splits not named are dropped."""
    stratified: bool = True
    """Whether sampled classes keep their proportions."""
    folds: int | None = None
    """Split all labelled clips anew, by group, into so many folds."""
    fold: int | None = None
    """The fold that is test, from 1; the others are train."""
    validation: float | None = None
    """Share of train, by group, to validate on; 0 leaves that to training, None to the data set."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(f"a fraction of {self.fraction:g}: give a share of the clips, above 0 and up to 1")
        if self.fraction is not None and self.clips is not None:
            raise UsageError("a fraction and numbers of clips exclude each other: give one of them")
        if (self.folds is None) != (self.fold is None):
            raise UsageError("folds need two options: their number (--folds) and the one that is test (--fold)")
        if self.folds is not None and not (self.folds >= 2 and 1 <= (self.fold or 0) <= self.folds):
            raise UsageError(f"fold {self.fold} of {self.folds}: there are at least 2 folds, numbered from 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"a seed of {self.seed}: give 0 to {2**32 - 1}")
        if self.validation is not None and not 0 <= self.validation <= 0.5:
            raise UsageError(f"a validation share of {self.validation:g}: give 0 to 0.5")

    @property
    def is_sampled(self) -> bool:
        return self.fraction is not None or self.clips is not None

    @property
    def suffix(self) -> str:
        """Appended to the data set's name, so that different subsets have different names."""
        words = []
        if self.folds is not None:
            words.append(f"fold{self.fold}of{self.folds}")
        if self.fraction is not None:
            words.append(f"fraction{self.fraction:g}{self._seed}")
        if self.clips is not None:
            words.append("clips-" + "-".join(f"{split}{count}" for split, count in self.clips.items()) + self._seed)
        if self.validation is not None:
            words.append(f"validation{self.validation:g}")
        if self.seed and not self.is_sampled:
            words.append(f"seed{self.seed}")
        return "".join(f"-{word}" for word in words)

    @property
    def _seed(self) -> str:
        return f"-{'' if self.stratified else 'random-'}seed{self.seed}"


def assign_splits(description: DatasetDescription, subset: Subset) -> tuple[DatasetDescription, list[str]]:
    """Assign folds and mark validation clips. Returns the description and lines to print.

    Drawn from all listed clips, missing ones included, in the order of their ids, so that a clip stays in its split
    when others arrive or move.
    """
    table, notes = description.table.sort_values("clip_id", kind="stable"), []
    validation: pd.Series | float | None = description.validation
    if subset.folds is not None and subset.fold is not None:
        labelled = (table["split"] != "unlabelled").to_numpy()
        fold = group_folds(table["label"][labelled], table["group"][labelled], subset.folds, subset.seed)
        splits = table["split"].to_numpy().copy()
        splits[labelled] = np.where(fold == subset.fold - 1, "test", "train")
        table = table.assign(split=splits)
        notes.append(f"fold {subset.fold} of {subset.folds} by group is test; the official split is not used")
        validation = validation if isinstance(validation, float) else None
    if subset.validation is not None:
        table = table.assign(split=table["split"].replace("val", "train"))
        validation = subset.validation or None
    provenance = {**description.provenance, **({"part": _given_fields(subset)} if subset != Subset() else {})}
    if isinstance(validation, float):
        provenance["validation"] = {"share": validation, "seed": subset.seed, "by": "group"}
    table = _mark_validation(table, validation, subset.seed).loc[description.table.index]
    return replace(description, table=table, provenance=provenance), notes


def take_subset(description: DatasetDescription, subset: Subset) -> tuple[DatasetDescription, list[str]]:
    """Sample the fraction or the numbers of clips asked for. Returns the description and lines to print."""
    if not subset.is_sampled:
        return description, []
    size = subset.fraction if subset.fraction is not None else (subset.clips or {})
    table = description.table[sample_clips(description.table, size, subset.stratified, subset.seed)]
    targets = tuple(target.narrowed(table) for target in description.targets)
    notes = [f"the subset is {len(table):,} of these {len(description.table):,} clips"]
    notes += [
        f"{len(after.classes)} of {len(before.classes)} classes of '{before.name}' are in this subset"
        for before, after in zip(description.targets, targets, strict=True)
        if len(after.classes) < len(before.classes)
    ]
    return replace(description, table=table, targets=targets), notes


def _mark_validation(table: pd.DataFrame, validation: pd.Series | float | None, seed: int) -> pd.DataFrame:
    """Mark clips of train as val, unless there are such clips already."""
    if validation is None or (table["split"] == "val").any():
        return table
    if isinstance(validation, pd.Series):
        marked = validation.loc[table.index].to_numpy() & (table["split"] == "train").to_numpy()
    else:
        marked = np.zeros(len(table), dtype=bool)
        train = np.flatnonzero((table["split"] == "train").to_numpy())
        if len(train):
            marked[train] = group_holdout(table["label"].iloc[train], table["group"].iloc[train], validation, seed)
    return table.assign(split=table["split"].mask(marked, "val"))


def _given_fields(subset: Subset) -> dict[str, object]:
    return {name: value for name, value in vars(subset).items() if value is not None}
