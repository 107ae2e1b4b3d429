"""The published lists themselves, where a copy of them is at hand: every number that is known of them."""

from pathlib import Path

import pandas as pd
import pytest

from avfuse.manifests.annotations import Annotations
from avfuse.manifests.datasets.epic_kitchens_100 import describe_epic_kitchens_100
from avfuse.manifests.datasets.kinetics_sounds import CLASSES_31, describe_kinetics_sounds
from avfuse.manifests.datasets.ucf101 import describe_ucf101
from avfuse.manifests.datasets.vggsound import describe_vggsound
from avfuse.manifests.splits import shared_groups


@pytest.fixture
def lists(real_data: Path) -> Path:
    if not (real_data / "annotations").is_dir():
        pytest.skip(f"no official lists in {real_data}")
    return real_data / "annotations"


def counts(table: pd.DataFrame) -> tuple[int, ...]:
    counts = table["split"].value_counts()
    return tuple(int(counts[split]) for split in ("train", "test") if split in counts)


@pytest.mark.parametrize(("split", "expected"), [(1, (9537, 3783)), (2, (9586, 3734)), (3, (9624, 3696))])
def test_ucf101(lists: Path, tmp_path: Path, split: int, expected: tuple[int, int]) -> None:
    description = describe_ucf101(tmp_path, Annotations([lists / "ucf101"]), split)
    assert counts(description.table) == expected
    assert len(description.targets[0].classes) == description.table["label"].nunique() == 101
    assert description.table["clip_id"].nunique() == 13320
    assert description.table["group"].nunique() == 2525
    assert isinstance(description.validation, pd.Series)
    assert not shared_groups(
        description.table.assign(split=description.table["split"].mask(description.validation, "val"))
    )


@pytest.mark.parametrize(("split", "expected"), [(1, (4901, 1944)), (2, (4930, 1915)), (3, (4945, 1900))])
def test_ucf101_with_sound(lists: Path, tmp_path: Path, split: int, expected: tuple[int, int]) -> None:
    description = describe_ucf101(tmp_path, Annotations([lists / "ucf101"]), split, "audio51")
    assert counts(description.table) == expected
    assert description.table["label"].nunique() == 51
    per_class = description.table.value_counts(["split", "label"])
    if split == 1:
        assert (per_class["train"].min(), per_class["train"].max()) == (76, 120)
        assert (per_class["test"].min(), per_class["test"].max()) == (28, 49)
        assert (description.published["train"], description.published["test"]) == (4893, 1944)


@pytest.mark.parametrize(("variant", "expected"), [("31", (14799, 2597)), ("27", (19347, 1344))])
def test_kinetics_sounds(lists: Path, tmp_path: Path, variant: str, expected: tuple[int, int]) -> None:
    description = describe_kinetics_sounds(tmp_path, Annotations([lists / "kinetics-sounds"]), variant)
    assert description.name == f"kinetics_sounds-{variant}"
    assert counts(description.table) == expected
    assert len(description.targets[0].classes) == description.table["label"].nunique() == int(variant)
    assert not shared_groups(description.table)


def test_the_31_class_lists_name_no_classes_and_videos_of_the_27_class_lists_agree_on_them(
    lists: Path, tmp_path: Path
) -> None:
    annotations = Annotations([lists / "kinetics-sounds"])
    by_31, by_27 = (describe_kinetics_sounds(tmp_path, annotations, variant).table for variant in ("31", "27"))
    both = by_31.merge(by_27, on="group")
    assert len(both) > 10_000
    assert (both["label_x"] == both["label_y"]).all()
    assert set(CLASSES_31) - set(both["label_x"]) == {
        "blowing out candles", "dribbling basketball", "mowing lawn", "stomping grapes",
    }  # fmt: skip


def test_vggsound(lists: Path, tmp_path: Path) -> None:
    description = describe_vggsound(tmp_path, Annotations([lists / "vggsound"]))
    assert counts(description.table) == (15446,)
    assert len(description.targets[0].classes) == 309
    assert "bird chirping, tweeting" in description.targets[0].classes
    assert "only test.csv is there" in description.notes[0]


def test_epic_kitchens_100(lists: Path, tmp_path: Path) -> None:
    folder = lists / "epic-kitchens-100"
    description = describe_epic_kitchens_100(tmp_path, Annotations([folder]), folder / "EPIC_100_uda_source_train.csv")
    assert counts(description.table) == (16115, 9668)
    assert [len(target.classes) for target in description.targets] == [97, 300]
    validation = description.table[description.table["split"] == "test"]
    assert (validation["verb"].nunique(), validation["noun"].nunique()) == (78, 211)
    assert not shared_groups(description.table)
    first = description.table.set_index("clip_id").loc["P01_11_0"]
    assert (first["start"], first["end"], first["verb"], first["noun"]) == (0.0, 1.89, "take", "plate")
