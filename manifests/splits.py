"""Splits by group, so that no group has clips in two splits, and samples of clips."""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import ArrayLike, NDArray

from avfuse.features.errors import UsageError
from avfuse.manifests.manifest import SPLITS

MANY_GROUPS = 5_000
"""Beyond these, classes keep their proportions of groups instead of clips: scikit-learn's search takes minutes."""

MAX_FOLDS = 20
"""A held-out fraction is approximated by some of at most so many folds."""


def group_holdout(labels: ArrayLike, groups: ArrayLike, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Hold out about a fraction of the clips: whole groups, stratified by class where the groups allow it.

    Based on scikit-learn's StratifiedGroupKFold; of its folds those with the most classes are taken, the first among
    equals, because some lack a class where groups are few.

    Args:
        labels: per clip (n,), None for unlabelled clips; where there are any, only groups count.
        groups: per clip (n,).
        fraction: to hold out.
        seed: of the shuffle.

    Returns:
        Which clips are held out: bool (n,).
    """
    labels, groups = np.asarray(labels, dtype=object), np.asarray(groups, dtype=object)
    held_out = np.zeros(len(labels), dtype=bool)
    n_held_out, folds = _as_folds(fraction)
    n_groups = len(set(groups))
    if n_groups < 2:
        return held_out
    if n_groups <= MANY_GROUPS and (pd.isna(labels).any() or n_groups < folds or _largest_class_size(labels) < folds):
        from sklearn.model_selection import GroupShuffleSplit  # takes over a second to import

        _, chosen = next(GroupShuffleSplit(1, test_size=fraction, random_state=seed).split(labels, groups=groups))
        held_out[chosen] = True
        return held_out
    fold = group_folds(labels, groups, folds, seed)
    classes = pd.Series(labels).groupby(fold).nunique()
    return np.isin(fold, classes.sort_values(ascending=False, kind="stable").index[:n_held_out])


def _as_folds(fraction: float) -> tuple[int, int]:
    """A fraction as a number of folds out of several: (1, 5), (2, 5), (7, 20)."""
    if fraction < 1 / MAX_FOLDS:
        return 1, round(1 / fraction)
    return min(
        ((max(1, round(fraction * folds)), folds) for folds in range(2, MAX_FOLDS + 1)),
        key=lambda pair: (round(abs(pair[0] / pair[1] - fraction), 9), pair[1]),
    )


def _largest_class_size(labels: NDArray[np.object_]) -> int:
    """Number of clips of the largest class."""
    return int(pd.Series(labels).value_counts().max())


def group_folds(labels: ArrayLike, groups: ArrayLike, folds: int, seed: int) -> NDArray[np.int64]:
    """Divide clips into folds: whole groups, stratified by class where the groups allow it.

    Args:
        labels: per clip (n,), None for unlabelled clips.
        groups: per clip (n,).
        folds: how many.
        seed: of the shuffle.

    Returns:
        The fold of each clip, from 0: int (n,).

    Raises:
        UsageError: fewer groups than folds.
    """
    labels, groups = np.asarray(labels, dtype=object), np.asarray(groups, dtype=object)
    names, member = np.unique(groups.astype(str), return_inverse=True)
    if len(names) < folds:
        raise UsageError(f"{folds} folds need as many groups of clips, and there are {len(names)}: ask for fewer")
    if len(names) > MANY_GROUPS or _largest_class_size(pd.Series(labels).fillna("").to_numpy()) < folds:
        # Sort groups by their most common class, shuffled within it, and deal them out in turn.
        pairs = pd.DataFrame({"group": member, "label": pd.Series(labels).fillna("").astype(str)})
        pairs = pairs.value_counts().reset_index().sort_values(["count", "label"], ascending=[False, True])
        main_class = pairs.drop_duplicates("group").set_index("group")["label"].sort_index().to_numpy().astype(str)
        shuffled = np.random.default_rng(seed).permutation(len(names))
        order = shuffled[np.argsort(main_class[shuffled], kind="stable")]
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
        # A class with fewer clips than folds cannot be stratified; its groups are still kept whole.
        warnings.filterwarnings("ignore", message="The least populated class")
        yield from splitter.split(np.zeros(len(labels)), labels.astype(str), groups.astype(str))


def shared_groups(table: pd.DataFrame) -> dict[str, list[str]]:
    """Groups with clips in several splits, and these splits. A head may recognise such a group instead of the class."""
    pairs = table[["group", "split"]].drop_duplicates()
    crossing = pairs[pairs["group"].duplicated(keep=False)].sort_values("group", kind="stable")
    return {str(group): rows["split"].tolist() for group, rows in crossing.groupby("group")}


def sample_clips(
    table: pd.DataFrame, size: float | Mapping[str, int], stratified: bool, seed: int
) -> NDArray[np.bool_]:
    """Sample clips of every split.

    A clip's rank is a hash of the seed and its id: one clip more or less in the table changes the sample by little, and
    the order of the rows changes nothing.

    Args:
        table: of a manifest.
        size: a fraction of each split, or numbers of clips by split; splits not named are dropped.
        stratified: whether the classes of `label` keep their proportions (largest remainders).
        seed: of the draw.

    Returns:
        Which clips are in the sample: bool (n,).

    Raises:
        UsageError: a split has fewer clips than asked for.
    """
    marked = np.zeros(len(table), dtype=bool)
    labels = table["label"].fillna("").to_numpy().astype(str)
    ranks = _draw_ranks(table["clip_id"].tolist(), seed)
    for split in SPLITS if isinstance(size, float) else size:
        members = np.flatnonzero((table["split"] == split).to_numpy())
        if len(members) == 0 and isinstance(size, float):
            continue
        count = max(1, round(size * len(members))) if isinstance(size, float) else size[split]
        if count > len(members):
            raise UsageError(f"{split}={count}: the data set has {len(members)} clips in that split")
        members = members[np.argsort(ranks[members], kind="stable")]
        if stratified:
            names, number, sizes = np.unique(labels[members], return_inverse=True, return_counts=True)
            shares = _largest_remainders(sizes, count, _draw_ranks(names.tolist(), seed))
            rank = pd.Series(number).groupby(number).cumcount().to_numpy()
            members = members[rank < shares[number]]
        marked[members[:count]] = True
    return marked


def _draw_ranks(names: Sequence[str], seed: int) -> NDArray[np.uint64]:
    return np.array([xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()) for name in names], dtype=np.uint64)


def _largest_remainders(sizes: NDArray[np.int64], count: int, ranks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Divide `count` in proportion to `sizes`, into whole numbers that do not exceed them; ties go to the smaller
    rank."""
    exact = sizes * (count / sizes.sum())
    shares = np.floor(exact).astype(np.int64)
    order = np.lexsort((ranks, -(exact - shares)))
    shares[order[: count - shares.sum()]] += 1
    return shares
