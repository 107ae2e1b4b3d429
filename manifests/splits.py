"""Dividing clips so that no group has clips on both sides."""

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold


def held_out(
    labels: pd.Series | NDArray[np.object_], groups: pd.Series | NDArray[np.object_], fraction: float, seed: int
) -> NDArray[np.bool_]:
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
    if pd.isna(labels).any() or n_groups < folds or pd.Series(labels).value_counts().max() < folds:
        _, chosen = next(GroupShuffleSplit(1, test_size=fraction, random_state=seed).split(labels, groups=groups))
    else:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # A class with fewer clips than folds cannot be in proportion everywhere; its groups are still kept whole.
            warnings.filterwarnings("ignore", message="The least populated class")
            _, chosen = next(splitter.split(np.zeros(len(labels)), labels.astype(str), groups.astype(str)))
    marked[chosen] = True
    return marked
