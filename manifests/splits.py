"""Dividing clips so that no group has clips on both sides, and taking parts of a data set."""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import ArrayLike, NDArray

from avfuse.features.errors import UsageError
from avfuse.manifests.manifest import SPLITS

MANY_GROUPS = 5_000
"""Beyond so many groups, classes keep their proportions of groups, not clips: scikit-learn's search takes minutes."""

MOST_FOLDS = 20
"""Shares that are not one part of several are some of at most so many folds."""


def group_holdout(labels: ArrayLike, groups: ArrayLike, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark about `fraction` of the clips as held out: whole groups, classes in proportion where the groups allow it.

    labels may be empty (None) for unlabelled clips; then only groups count. Returns bool (n,). Seeded. Source:
    scikit-learn's StratifiedGroupKFold, of which the folds with the most classes are taken, the first among equals:
    where groups are few, some folds lack a class.
    """
    labels, groups = np.asarray(labels, dtype=object), np.asarray(groups, dtype=object)
    marked = np.zeros(len(labels), dtype=bool)
    taken, folds = _as_folds(fraction)
    n_groups = len(set(groups))
    if n_groups < 2:
        return marked
    if n_groups <= MANY_GROUPS and (pd.isna(labels).any() or n_groups < folds or _largest_class_size(labels) < folds):
        from sklearn.model_selection import GroupShuffleSplit  # takes over a second to import

        _, chosen = next(GroupShuffleSplit(1, test_size=fraction, random_state=seed).split(labels, groups=groups))
        marked[chosen] = True
        return marked
    fold = group_folds(labels, groups, folds, seed)
    classes = pd.Series(labels).groupby(fold).nunique()
    return np.isin(fold, classes.sort_values(ascending=False, kind="stable").index[:taken])


def _as_folds(fraction: float) -> tuple[int, int]:
    """A share as so many of so many folds: 1 of 5, 2 of 5, 7 of 20."""
    if fraction < 1 / MOST_FOLDS:
        return 1, round(1 / fraction)
    return min(
        ((max(1, round(fraction * folds)), folds) for folds in range(2, MOST_FOLDS + 1)),
        key=lambda pair: (round(abs(pair[0] / pair[1] - fraction), 9), pair[1]),
    )


def _largest_class_size(labels: NDArray[np.object_]) -> int:
    """How many clips the largest class has."""
    return int(pd.Series(labels).value_counts().max())


def group_folds(labels: ArrayLike, groups: ArrayLike, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold, 0 to folds - 1, of every clip: whole groups, classes in proportion where the groups allow it. Seeded.

    Raises UsageError when there are fewer groups than folds.
    """
    labels, groups = np.asarray(labels, dtype=object), np.asarray(groups, dtype=object)
    names, member = np.unique(groups.astype(str), return_inverse=True)
    if len(names) < folds:
        raise UsageError(f"{folds} folds need as many groups of clips, and there are {len(names)}: ask for fewer")
    if len(names) > MANY_GROUPS or _largest_class_size(pd.Series(labels).fillna("").to_numpy()) < folds:
        # Groups in the order of their commonest class, at random within it, are dealt out in turn.
        pairs = pd.DataFrame({"group": member, "label": pd.Series(labels).fillna("").astype(str)})
        pairs = pairs.value_counts().reset_index().sort_values(["count", "label"], ascending=[False, True])
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
    from sklearn.model_selection import StratifiedGroupKFold

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
    likely. A clip's place in the draw is a hash of the seed and its id: one clip more or less in the table changes the
    part by little, and the order of the rows changes nothing.

    Raises UsageError when a split has fewer clips than wanted.
    """
    marked = np.zeros(len(table), dtype=bool)
    labels = table["label"].fillna("").to_numpy().astype(str)
    places = _draw_order(table["clip_id"].tolist(), seed)
    for split in SPLITS if isinstance(wanted, float) else wanted:
        members = np.flatnonzero((table["split"] == split).to_numpy())
        if len(members) == 0 and isinstance(wanted, float):
            continue
        count = max(1, round(wanted * len(members))) if isinstance(wanted, float) else wanted[split]
        if count > len(members):
            raise UsageError(f"{split}={count}: the data set has {len(members)} clips in that split")
        members = members[np.argsort(places[members], kind="stable")]
        if stratified:
            names, number, sizes = np.unique(labels[members], return_inverse=True, return_counts=True)
            shares = _largest_remainders(sizes, count, _draw_order(names.tolist(), seed))
            rank = pd.Series(number).groupby(number).cumcount().to_numpy()
            members = members[rank < shares[number]]
        marked[members[:count]] = True
    return marked


def _draw_order(names: Sequence[str], seed: int) -> NDArray[np.uint64]:
    return np.array([xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()) for name in names], dtype=np.uint64)


def _largest_remainders(sizes: NDArray[np.int64], count: int, places: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Divide `count` in proportion to `sizes`, in whole numbers none of which exceeds its size; the smaller of `places`
    decides ties."""
    exact = sizes * (count / sizes.sum())
    shares = np.floor(exact).astype(np.int64)
    order = np.lexsort((places, -(exact - shares)))
    shares[order[: count - shares.sum()]] += 1
    return shares
