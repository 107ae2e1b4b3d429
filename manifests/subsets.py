"""Taking a part of a data set: a share, so many clips, or a fold; and what is set aside to choose on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.manifests.listing import Listing
from avfuse.manifests.splits import group_folds, held_out, sample


@dataclass(frozen=True, kw_only=True)
class Part:
    """What to take of a data set; everything by default.

    fraction: a share of each split. clips: so many clips of each named split, none of the others. stratified: classes
    keep their proportions. folds, fold: the labelled clips are divided anew by group, fold number `fold` (from 1) is
    test and the others train. validation: the share of train, by group, that is set aside to choose on; 0 leaves that
    to training, None to the data set.
    """

    fraction: float | None = None
    clips: Mapping[str, int] | None = None
    stratified: bool = True
    folds: int | None = None
    fold: int | None = None
    validation: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(f"a fraction of {self.fraction:g}: give a share of the clips, above 0 and up to 1")
        if self.fraction is not None and self.clips is not None:
            raise UsageError("a fraction and numbers of clips say the same thing twice: give one of them")
        if (self.folds is None) != (self.fold is None):
            raise UsageError("folds need both: how many there are (--folds) and which is test (--fold)")
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
        """What the data set's name gains, so that different parts have different names."""
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


def divide(listing: Listing, part: Part) -> tuple[Listing, list[str]]:
    """The listing with its clips in folds and its validation marked, and what a user should know of it.

    Drawn from all clips that are listed, whether they are there or not and in the order of their ids, so that a clip
    stays on its side when others arrive or move.
    """
    table, notes = listing.table.sort_values("clip_id", kind="stable"), []
    validation: pd.Series | float | None = listing.validation
    if part.folds is not None and part.fold is not None:
        labelled = (table["split"] != "unlabelled").to_numpy()
        fold = group_folds(table["label"][labelled], table["group"][labelled], part.folds, part.seed)
        splits = table["split"].to_numpy().copy()
        splits[labelled] = np.where(fold == part.fold - 1, "test", "train")
        table = table.assign(split=splits)
        notes.append(f"fold {part.fold} of {part.folds} by group is test; the lists' own split is set aside")
        validation = validation if isinstance(validation, float) else None
    if part.validation is not None:
        table = table.assign(split=table["split"].replace("val", "train"))
        validation = part.validation or None
    provenance = {**listing.provenance, **({"part": _recorded(part)} if part != Part() else {})}
    if isinstance(validation, float):
        provenance["validation"] = {"share": validation, "seed": part.seed, "by": "group"}
    table = _set_aside(table, validation, part.seed).loc[listing.table.index]
    return replace(listing, table=table, provenance=provenance), notes


def take(listing: Listing, part: Part) -> tuple[Listing, list[str]]:
    """The share, or so many clips, of a listing, and what a user should know of it."""
    if not part.is_sampled:
        return listing, []
    wanted = part.fraction if part.fraction is not None else (part.clips or {})
    table = listing.table[sample(listing.table, wanted, part.stratified, part.seed)]
    targets = tuple(target.narrowed(table) for target in listing.targets)
    notes = [f"the part is {len(table):,} of these {len(listing.table):,} clips"]
    notes += [
        f"{len(after.classes)} of {len(before.classes)} classes of '{before.name}' are in this part"
        for before, after in zip(listing.targets, targets, strict=True)
        if len(after.classes) < len(before.classes)
    ]
    return replace(listing, table=table, targets=targets), notes


def _set_aside(table: pd.DataFrame, validation: pd.Series | float | None, seed: int) -> pd.DataFrame:
    """Mark clips of train as val. Nothing changes where there are such clips already."""
    if validation is None or (table["split"] == "val").any():
        return table
    if isinstance(validation, pd.Series):
        marked = validation.loc[table.index].to_numpy() & (table["split"] == "train").to_numpy()
    else:
        marked = np.zeros(len(table), dtype=bool)
        train = np.flatnonzero((table["split"] == "train").to_numpy())
        if len(train):
            marked[train] = held_out(table["label"].iloc[train], table["group"].iloc[train], validation, seed)
    return table.assign(split=table["split"].mask(marked, "val"))


def _recorded(part: Part) -> dict[str, object]:
    return {name: value for name, value in vars(part).items() if value is not None}
