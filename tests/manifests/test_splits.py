"""Groups stay together, classes keep their proportions, and a seed decides."""

import numpy as np
import pandas as pd
import pytest

from avfuse.features.errors import UsageError
from avfuse.manifests.splits import MANY_GROUPS, group_folds, group_holdout, sample_clips, shared_groups


def clips(n_groups: int, per_group: int = 3, n_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups: each group of one class."""
    groups = np.repeat(np.arange(n_groups), per_group)
    return np.array([f"class {group % n_classes}" for group in groups], dtype=object), groups.astype(str).astype(object)


@pytest.mark.parametrize("n_groups", [40, MANY_GROUPS + 500])
def test_folds_keep_groups_whole_and_classes_in_proportion(n_groups: int) -> None:
    labels, groups = clips(n_groups)
    fold = group_folds(labels, groups, 4, seed=0)
    assert pd.Series(fold).groupby(groups).nunique().max() == 1
    shares = pd.crosstab(labels, fold, normalize="index")
    assert np.abs(shares - 0.25).max().max() <= 0.04 if n_groups > 100 else (shares > 0).all().all()
    assert set(fold) == {0, 1, 2, 3}


@pytest.mark.parametrize("n_groups", [40, MANY_GROUPS + 500])
def test_a_seed_decides(n_groups: int) -> None:
    labels, groups = clips(n_groups)
    first, again, other = (group_folds(labels, groups, 4, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_what_is_held_out_of_many_groups_is_the_asked_share_by_whole_groups() -> None:
    labels, groups = clips(MANY_GROUPS + 500)
    marked = group_holdout(labels, groups, 0.1, seed=0)
    assert abs(marked.mean() - 0.1) < 0.005
    assert not set(groups[marked]) & set(groups[~marked])


@pytest.mark.parametrize("seed", range(10))
def test_where_groups_are_few_a_fold_with_every_class_is_held_out(seed: int) -> None:
    """Four classes of four groups each: of five folds most have three groups, and lack a class."""
    groups = np.repeat(np.arange(16), 2)
    labels = np.array(["a", "b", "c", "d"])[groups % 4]
    marked = group_holdout(labels, groups, 0.2, seed)
    assert set(labels[marked]) == set("abcd")
    assert marked.sum() == 8


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="5 folds need as many groups of clips, and there are 3"):
        group_folds(*clips(3), folds=5, seed=0)


def test_groups_in_several_splits_are_found() -> None:
    table = pd.DataFrame({"group": ["a", "a", "b", "b", "c"], "split": ["train", "test", "val", "val", "test"]})
    assert shared_groups(table) == {"a": ["train", "test"]}


@pytest.fixture
def table() -> pd.DataFrame:
    """Train: 60 of a, 30 of b, 10 of c; test: half as many; val: ten of a."""
    rows = [
        (split, label)
        for split, share in (("train", 1.0), ("test", 0.5))
        for label, count in (("a", 60), ("b", 30), ("c", 10))
        for _ in range(round(share * count))
    ]
    table = pd.DataFrame([*rows, *[("val", "a")] * 10], columns=["split", "label"])
    return table.assign(clip_id=[f"clip{index}" for index in table.index])


def test_a_stratified_share_keeps_the_proportions_in_every_split(table: pd.DataFrame) -> None:
    part = table[sample_clips(table, 0.1, stratified=True, seed=3)]
    counts = pd.crosstab(part["split"], part["label"])
    assert counts.loc["train"].tolist() == [6, 3, 1]
    assert counts.loc["test", "a"] == 3
    assert counts.loc["test"].sum() == 5
    assert counts.loc["val", "a"] == 1


def test_numbers_of_clips_are_exact_and_other_splits_are_left_out(table: pd.DataFrame) -> None:
    for stratified in (True, False):
        part = table[sample_clips(table, {"train": 37, "test": 11}, stratified, seed=0)]
        assert part["split"].value_counts().to_dict() == {"train": 37, "test": 11}


def test_a_random_part_differs_from_seed_to_seed_and_not_from_run_to_run(table: pd.DataFrame) -> None:
    first, again, other = (sample_clips(table, 0.2, stratified=False, seed=seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_more_clips_than_there_are_is_refused(table: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="val=11: the data set has 10 clips in that split"):
        sample_clips(table, {"val": 11}, stratified=True, seed=0)


@pytest.mark.parametrize("stratified", [True, False])
def test_the_order_of_rows_and_a_missing_clip_hardly_change_a_part(table: pd.DataFrame, stratified: bool) -> None:
    def sampled_ids(of: pd.DataFrame) -> set[str]:
        return set(of["clip_id"][sample_clips(of, {"train": 40, "test": 20}, stratified, seed=2)])

    assert sampled_ids(table.sample(frac=1, random_state=0)) == sampled_ids(table)
    removed = sorted(sampled_ids(table))[0]
    fewer = sampled_ids(table[table["clip_id"] != removed])
    assert len(sampled_ids(table) - fewer) <= 2
    assert len(fewer) == 60


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.4, 0.36, 0.44), (0.3, 0.26, 0.34), (0.05, 0.03, 0.07)])
def test_any_share_can_be_held_out(fraction: float, low: float, high: float) -> None:
    marked = group_holdout(*clips(400), fraction, seed=0)
    assert low <= marked.mean() <= high


def test_folds_of_classes_with_few_clips_keep_groups_whole() -> None:
    groups = np.array([f"g{index // 2}" for index in range(12)], dtype=object)
    fold = group_folds(np.array([f"c{index // 2}" for index in range(12)], dtype=object), groups, 3, seed=0)
    assert sorted(np.bincount(fold)) == [4, 4, 4]
    assert pd.Series(fold).groupby(groups).nunique().max() == 1
