"""Subsets of a data set: fractions, numbers of clips, folds and validation splits."""

import re
import shutil
from pathlib import Path

import pytest

from avfuse.features.errors import UsageError
from avfuse.manifests import build
from avfuse.manifests.subsets import Subset


def test_subsets_have_names_of_their_own_and_are_recorded(trees: Path, cache: Path) -> None:
    root = trees / "vggsound"
    subsets = {
        "vggsound-fraction0.5-seed0": Subset(fraction=0.5),
        "vggsound-fraction0.5-random-seed7": Subset(fraction=0.5, stratified=False, seed=7),
        "vggsound-clips-train6-test3-seed0": Subset(clips={"train": 6, "test": 3}),
        "vggsound-clips-test6-train3-seed0": Subset(clips={"test": 6, "train": 3}),
        "vggsound-fold2of3": Subset(folds=3, fold=2),
        "vggsound-fold2of3-seed4": Subset(folds=3, fold=2, seed=4),
        "vggsound-validation0.2-seed3": Subset(validation=0.2, seed=3),
    }
    for name, subset in subsets.items():
        manifest = build("vggsound", root, cache, part=subset).manifest
        assert (manifest.name, manifest.collection) == (name, "vggsound")
        assert manifest.provenance["part"]["seed"] == subset.seed
    half = build("vggsound", root, cache, part=subsets["vggsound-fraction0.5-seed0"]).manifest
    assert half.table["split"].isin(["train", "val"]).sum() in (8, 9, 10)
    assert (half.table["split"] == "test").sum() in (4, 5)


def test_every_clip_is_test_in_one_fold(trees: Path, cache: Path) -> None:
    tested: list[str] = []
    for fold in (1, 2, 3):
        built = build("vggsound", trees / "vggsound", cache, part=Subset(folds=3, fold=fold))
        table = built.manifest.table
        assert len(table) == 27
        tested += table["clip_id"][table["split"] == "test"].tolist()
        assert (table["split"] == "val").any()
    assert len(tested) == len(set(tested)) == 27


def test_a_subset_has_only_its_own_classes_and_warns_of_those_that_train_lacks(trees: Path, cache: Path) -> None:
    built = build("vggsound", trees / "vggsound", cache, part=Subset(clips={"train": 1, "test": 9}, stratified=False))
    assert any("2 classes in test without a clip in train" in note for note in built.notes)
    few = build("vggsound", trees / "vggsound", cache, part=Subset(clips={"train": 1, "test": 1}, stratified=False))
    assert len(few.manifest.targets[0].classes) <= 2
    assert any("of 3 classes of 'label' are in this subset" in note for note in few.notes)
    lacking = build("vggsound", trees / "vggsound", cache, part=Subset(clips={"train": 9, "test": 1}, stratified=False))
    assert any(re.search(r"\d class(es)? in train without a clip in test, such as '", note) for note in lacking.notes)


def test_validation_can_be_another_share_or_left_to_training(trees: Path, cache: Path) -> None:
    tables = {share: build("vggsound", trees / "vggsound", cache, part=Subset(validation=share)) for share in (0, 0.5)}
    assert "val" not in set(tables[0].manifest.table["split"])
    assert (tables[0.5].manifest.table["split"] == "val").sum() == 9


def test_a_clip_stays_in_its_split_when_others_arrive_or_move(trees: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(trees / "ucf101", tmp_path / "moved")
    (tmp_path / "moved" / "UCF-101" / "ApplyEyeMakeup").rename(tmp_path / "moved" / "zzz")
    for gone in ("v_ApplyEyeMakeup_g25_c01.avi", "v_ApplyEyeMakeup_g09_c02.avi"):
        (tmp_path / "moved" / "zzz" / gone).unlink()
    for subset in (Subset(validation=0.3), Subset(folds=3, fold=2), Subset(folds=4, fold=1, seed=5)):
        whole, other = (
            build("ucf101", root, cache, part=subset).manifest.table.set_index("clip_id")["split"]
            for root in (trees / "ucf101", tmp_path / "moved")
        )
        assert len(other) == len(whole) - 2
        assert (other == whole[other.index]).all()
    half, moved = (
        set(build("ucf101", root, cache, part=Subset(fraction=0.5)).manifest.table["clip_id"])
        for root in (trees / "ucf101", tmp_path / "moved")
    )
    assert len(half - moved) <= 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "a seed of -1"),
        ({"fraction": 0.0}, "a fraction of 0"),
        ({"fraction": 0.1, "clips": {"train": 1}}, "exclude each other"),
        ({"folds": 3}, "folds need two options"),
        ({"folds": 3, "fold": 4}, "fold 4 of 3"),
        ({"validation": 0.9}, "a validation share of 0.9"),
    ],
)
def test_contradictory_subsets_are_rejected(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Subset(**given)
