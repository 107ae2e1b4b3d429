"""Dividing clips so that no group has clips on both sides, and taking parts of a data set."""

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from features.errors import UsageError
from manifests.manifest import SPLITS

MANY_GROUPS = 5_000
"""Beyond so many groups, classes keep their proportions of groups, not clips: scikit-learn's search takes minutes."""


def held_out(labels: ArrayLike, groups: ArrayLike, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark about `fraction` of the clips as held out: whole groups, classes in proportion where the groups allow it.

    labels may be empty (None) for unlabelled clips; then only groups count. Returns bool (n,). Seeded. Source:
    scikit-learn's StratifiedGroupKFold, of which one fold is taken.
    """
    labels, groups = np.asarray(labels, dtype=object), np.asarray(groups, dtype=object)
    marked = np.zeros(len(labels), dtype=bool)
    folds = round(1 / fraction)
    n_groups = len(set(groups))
    if n_groups < 2:
        return marked
    if n_groups > MANY_GROUPS:
        return group_folds(labels, groups, folds, seed) == 0
    if pd.isna(labels).any() or n_groups < folds or pd.Series(labels).value_counts().max() < folds:
        _, chosen = next(GroupShuffleSplit(1, test_size=fraction, random_state=seed).split(labels, groups=groups))
    else:
        _, chosen = next(_stratified(labels, groups, folds, seed))
    marked[chosen] = True
    return marked


def group_folds(labels: ArrayLike, groups: ArrayLike, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold, 0 to folds - 1, of every clip: whole groups, classes in proportion where the groups allow it. Seeded.

    Raises UsageError when there are fewer groups than folds.
    """
    labels, groups = np.asarray(labels, dtype=object), np.asarray(groups, dtype=object)
    names, member = np.unique(groups.astype(str), return_inverse=True)
    if len(names) < folds:
        raise UsageError(f"{folds} folds need as many groups of clips, and there are {len(names)}: ask for fewer")
    if len(names) > MANY_GROUPS:
        # Groups in the order of their commonest class, at random within it, are dealt out in turn.
        pairs = pd.DataFrame({"group": member, "label": pd.Series(labels).fillna("")}).value_counts().reset_index()
        commonest = pairs.drop_duplicates("group").set_index("group")["label"].sort_index().to_numpy().astype(str)
        shuffled = np.random.default_rng(seed).permutation(len(names))
        order = shuffled[np.argsort(commonest[shuffled], kind="stable")]
        fold_of_group = np.empty(len(names), dtype=np.int64)
        fold_of_group[order] = np.arange(len(names)) % folds
        return fold_of_group[member]
    fold = np.empty(len(labels), dtype=np.int64)
    for number, (_, chosen) in enumerate(_stratified(pd.Series(labels).fillna("").to_numpy(), groups, folds, seed)):
        fold[chosen] = number
    return fold


def _stratified(
    labels: NDArray[np.object_], groups: NDArray[np.object_], folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer clips than folds cannot be in proportion everywhere; its groups are still kept whole.
        warnings.filterwarnings("ignore", message="The least populated class")
        yield from splitter.split(np.zeros(len(labels)), labels.astype(str), groups.astype(str))


def shared_groups(table: pd.DataFrame) -> dict[str, list[str]]:
    """Groups with clips in more than one split, and in which: what a head could recognise without having learnt it."""
    pairs = table[["group", "split"]].drop_duplicates()
    crossing = pairs[pairs["group"].duplicated(keep=False)].sort_values("group", kind="stable")
    return {str(group): part["split"].tolist() for group, part in crossing.groupby("group")}


def sample(table: pd.DataFrame, wanted: float | Mapping[str, int], stratified: bool, seed: int) -> NDArray[np.bool_]:
    """Mark a part of the clips of every split, seeded: a share of each, or so many of each named split and none of the
    others.

    With `stratified`, the classes of `label` keep their proportions (largest remainders); otherwise every clip is as
    likely. Raises UsageError when a split has fewer clips than wanted.
    """
    generator = np.random.default_rng(seed)
    marked = np.zeros(len(table), dtype=bool)
    labels = table["label"].fillna("").to_numpy().astype(str)
    for split in SPLITS if isinstance(wanted, float) else wanted:
        members = np.flatnonzero((table["split"] == split).to_numpy())
        count = max(1, round(wanted * len(members))) if isinstance(wanted, float) else wanted[split]
        if len(members) == 0 and isinstance(wanted, float):
            continue
        if count > len(members):
            raise UsageError(f"{split}={count}: the data set has {len(members)} clips in that split")
        members = members[generator.permutation(len(members))]
        if stratified:
            _, number, sizes = np.unique(labels[members], return_inverse=True, return_counts=True)
            shares = _largest_remainders(sizes, count, generator)
            rank = pd.Series(number).groupby(number).cumcount().to_numpy()
            members = members[rank < shares[number]]
        marked[members[:count]] = True
    return marked


def _largest_remainders(sizes: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Divide `count` in proportion to `sizes`, in whole numbers none of which exceeds its size. Ties fall at random."""
    exact = sizes * (count / sizes.sum())
    shares = np.floor(exact).astype(np.int64)
    order = np.lexsort((generator.random(len(sizes)), -(exact - shares)))
    shares[order[: count - shares.sum()]] += 1
    return shares
