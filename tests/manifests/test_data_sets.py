"""The papers' data sets in their own layouts, with small lists of the true form."""

import shutil
from pathlib import Path

import official_trees
import pandas as pd
import pytest

from avfuse.features.errors import UsageError
from avfuse.manifests import BuiltManifest, build, load_manifest, save_manifest
from avfuse.manifests.build import EMPTY, NO_AUDIO, NOT_FOUND
from avfuse.manifests.subsets import Subset


def left_out(built: BuiltManifest) -> dict[str, str]:
    return dict(zip(built.left_out["clip_id"], built.left_out["why"], strict=True))


def test_ucf101_lists_what_is_there_and_accounts_for_the_rest(trees: Path, cache: Path) -> None:
    built = build("ucf101", trees / "ucf101", cache, probe=True, jobs=1)
    manifest = built.manifest
    assert (manifest.name, manifest.collection) == ("ucf101", "ucf101")
    assert manifest.targets[0].classes == ("ApplyEyeMakeup", "Basketball", "HandStandPushups")
    assert left_out(built) == {official_trees.UCF101_MISSING: NOT_FOUND, official_trees.UCF101_EMPTY: EMPTY}
    assert built.counts.loc["train"].to_dict() == {
        "listed": 30, "expected": 9537, "found": 28, "missing": 1, "empty": 1, "used": 28, "published": -1,
        "unreadable": 0, "without_audio": 10,
    }  # fmt: skip
    assert built.counts.loc["test", "without_audio"] == 4


def test_ucf101_sets_groups_24_and_25_of_train_aside(trees: Path, cache: Path) -> None:
    for split, test_groups in ((1, {"g01", "g02"}), (2, {"g08", "g09"})):
        table = build("ucf101", trees / "ucf101", cache, split=split).manifest.table
        groups = table["group"].str[-3:].groupby(table["split"]).agg(set)
        assert groups["val"] == {"g24", "g25"}
        assert groups["test"] == test_groups
        assert not groups["train"] & (groups["val"] | groups["test"])


def test_ucf101_finds_classes_spelled_otherwise_and_says_so(trees: Path, cache: Path) -> None:
    built = build("ucf101", trees / "ucf101", cache)
    rows = built.manifest.table[built.manifest.table["label"] == "HandStandPushups"]
    assert rows["path"].str.startswith("UCF-101/HandstandPushups/v_HandstandPushups_g").all()
    assert rows["clip_id"].str.startswith("v_HandStandPushups_g").all()
    assert any("13 files have another spelling" in note for note in built.notes)


def test_ucf101_with_sound_leaves_out_clips_without_it(trees: Path, cache: Path) -> None:
    built = build("ucf101", trees / "ucf101", cache, subset="audio51", split=1, jobs=1)
    assert built.manifest.name == "ucf101-audio51"
    assert built.manifest.collection == "ucf101"
    assert set(built.manifest.table["label"]) == {"ApplyEyeMakeup", "HandStandPushups"}
    assert left_out(built)[official_trees.UCF101_SOUNDLESS] == NO_AUDIO
    assert built.counts.loc["train", ["without_audio", "used", "published"]].tolist() == [1, 18, 4893]
    assert any("MAiVAR counts 4,893" in note for note in built.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"split": 4}, "splits 1, 2 and 3, not 4"), ({"subset": "audio"}, "all and audio51, not 'audio'")],
)
def test_ucf101_has_no_other_splits_and_subsets(trees: Path, cache: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build("ucf101", trees / "ucf101", cache, **options)


def test_kinetics_sounds_numbers_with_gaps_are_put_in_their_order_and_recorded(trees: Path, cache: Path) -> None:
    built = build("kinetics_sounds", trees / "kinetics_sounds", cache)
    manifest = built.manifest
    assert (manifest.name, manifest.collection) == ("kinetics_sounds-27", "kinetics400")
    assert manifest.targets[0].classes == ("bowling", "tap dancing", "playing drums")
    assert manifest.provenance["class_ids"] == {"label": {"bowling": 1, "tap dancing": 14, "playing drums": 23}}
    assert list(left_out(built).values()) == [NOT_FOUND]
    test = manifest.table[manifest.table["split"] == "test"]
    assert test["path"].str.startswith("part_0.tar.gz/val/").all()
    assert len(test) == 6


def test_kinetics_sounds_reads_both_forms_of_rows_of_the_31_class_lists(
    trees: Path, cache: Path, tmp_path: Path
) -> None:
    root = trees / "kinetics_sounds"
    names = sorted(path.stem for path in (root / "train").rglob("*.mp4"))
    video, start = names[0][:11], int(names[0][12:18])
    (tmp_path / "my_train.txt").write_text(
        "".join(f"{name},10,{11 + index % 2}\n" for index, name in enumerate(names[1:]))
    )
    (tmp_path / "my_test.txt").write_text(f"{video}_{start},10,25\nabcdefghijk_7,10,11\n")
    built = build("kinetics_sounds", root, cache, annotations=tmp_path, variant="31")
    table = built.manifest.table.set_index("clip_id")
    assert table.loc[names[0], ["label", "split"]].tolist() == ["singing", "test"]
    assert set(table["label"]) == {"singing", "playing drums", "playing guitar"}
    assert left_out(built) == {"abcdefghijk_000007_000017": NOT_FOUND}


def test_own_classes_of_kinetics_are_a_variant_of_their_own(trees: Path, cache: Path, tmp_path: Path) -> None:
    root = trees / "kinetics_sounds"
    chosen = tmp_path / "loud.txt"
    chosen.write_text("playing_drums\nbowling\n")
    by_folders = build("kinetics_sounds", root, cache, classes=chosen)
    assert by_folders.manifest.name == "kinetics_sounds-loud"
    assert by_folders.manifest.targets[0].classes == ("playing drums", "bowling")
    assert by_folders.manifest.table["split"].isin(["train", "val"]).sum() == 11
    assert (by_folders.manifest.table["split"] == "test").sum() == 4
    lists = tmp_path / "lists"
    lists.mkdir()
    rows = [f"{path.parent.name},{path.stem[:11]},{int(path.stem[12:18])},9,train" for path in root.rglob("train/*/*")]
    (lists / "train.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *rows, ""]))
    (lists / "validate.csv").write_text("label,youtube_id,time_start,time_end,split\nbowling,abcdefghijk,3,13,val\n")
    by_lists = build("kinetics_sounds", root, cache, annotations=lists, classes=chosen)
    assert left_out(by_lists) == {"abcdefghijk_000003_000013": NOT_FOUND}
    assert len(by_lists.manifest) == 11
    chosen.write_text("playing drum\n")
    with pytest.raises(UsageError, match="no clip of Kinetics-400 is of class 'playing drum'"):
        build("kinetics_sounds", root, cache, classes=chosen)


def test_a_variant_without_lists_is_refused(trees: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match=r"no variant '32' .* choose from 31, 27"):
        build("kinetics_sounds", trees / "kinetics_sounds", cache, variant="32")


def test_lists_that_are_not_as_published_are_named_with_their_line(trees: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "ksounds27-train.txt").write_text("bowling/abcdefghijk_000001_000011 300 1\nbowling/short 300 1\n")
    (tmp_path / "ksounds27-val.txt").write_text("bowling/abcdefghijk_000001_000011 300 1\n")
    with pytest.raises(UsageError, match=r"ksounds27-train.txt, line 2: 'bowling/short 300 1' is not CLASS NAME/"):
        build("kinetics_sounds", trees / "kinetics_sounds", cache, annotations=tmp_path)


def test_vggsound_finds_clips_in_archives_and_under_other_zeros(trees: Path, cache: Path) -> None:
    built = build("vggsound", trees / "vggsound", cache)
    assert built.left_out.empty
    assert built.manifest.table["split"].isin(["train", "val"]).sum() == 18
    in_archive = built.manifest.table["path"].str.startswith("vggsound_00.tar/in_archive/video/")
    assert in_archive.sum() == 18
    assert built.manifest.targets[0].classes == tuple(sorted(official_trees.VGGSOUND))
    assert (built.manifest.table["clip_id"].str[:11] == built.manifest.table["group"]).all()


def test_vggsounder_gives_test_clips_several_labels(trees: Path, cache: Path) -> None:
    root = trees / "vggsound"
    built = build("vggsound", root, cache, vggsounder=root / "vggsounder.csv")
    assert built.manifest.name == "vggsound-vggsounder"
    (target,) = built.manifest.targets
    assert (target.name, target.several, len(target.classes)) == ("labels", True, 3)
    table = built.manifest.table
    test = table[table["split"] == "test"]
    assert len(test) == 6
    assert (test["labels"].str.count(r"\|") == 1).all()
    assert (table["labels"] == table["label"])[table["split"] != "test"].all()
    assert any("covers 6 of 9 test clips, 12 labels" in note for note in built.notes)
    seen = build("vggsound", root, cache, vggsounder=root / "vggsounder.csv", vggsounder_labels="visible").manifest
    assert seen.name == "vggsound-vggsounder-visible"
    assert not seen.table["labels"].str.contains("|", regex=False).any()


def test_vggsounder_labels_need_the_file(trees: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="add --vggsounder FILE"):
        build("vggsound", trees / "vggsound", cache, vggsounder_labels="audible")


def test_epic_kitchens_has_two_targets_and_segments_of_long_videos(trees: Path, cache: Path) -> None:
    built = build("epic_kitchens_100", trees / "epic_kitchens_100", cache, part=Subset(validation=0.5))
    manifest = built.manifest
    assert [(target.name, target.classes) for target in manifest.targets] == [
        ("verb", ("take", "put", "cut")),
        ("noun", ("tap", "plate", "knife", "salt")),
    ]
    assert manifest.provenance["class_ids"]["noun"] == {"tap": 0, "plate": 2, "knife": 3, "salt": 299}
    splits = manifest.table.groupby("group")["split"].unique().map(list).to_dict()
    assert splits["P02_01"] == ["test"]
    assert splits["P02_101"] == ["unlabelled"]
    assert sorted([splits["P01_01"], splits["P01_02"]]) == [["train"], ["val"]]
    row = manifest.table.set_index("clip_id").loc["P01_01_3"]
    assert (row["path"], row["start"], row["end"]) == ("P01/videos/P01_01.MP4", 6.1, 8.0)
    assert (row["verb"], row["noun"], row["label"]) == ("take", "plate", "take plate")
    assert manifest.table["verb"].isna().sum() == 4
    assert any("1 segments end after their videos, by up to 0.10 s" in note for note in built.notes)
    save_manifest(cache, manifest)
    read = load_manifest(cache, "epic_kitchens_100-validation0.5")
    pd.testing.assert_frame_equal(read.table, manifest.table)
    assert read.targets == manifest.targets


def test_a_file_named_by_its_video_alone_is_no_clip_where_several_are_listed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "vggsound.csv").write_text("abcdefghijk,0,a,train\nabcdefghijk,30,b,train\nzbcdefghijk,5,b,test\n")
    for name in ("abcdefghijk.mp4", "zbcdefghijk.mp4"):
        (tmp_path / name).write_bytes(b"x")
    built = build("vggsound", tmp_path, cache)
    assert built.manifest.table["clip_id"].tolist() == ["zbcdefghijk_000005"]
    assert any("1 clips were found by their YouTube id alone" in note for note in built.notes)


def test_a_segment_without_times_is_refused(trees: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(trees / "epic_kitchens_100" / "epic-kitchens-100-annotations", tmp_path / "lists")
    path = tmp_path / "lists" / "EPIC_100_validation.csv"
    path.write_text(path.read_text().replace("00:00:00.10", ""))
    with pytest.raises(UsageError, match="column 'start_timestamp': '' is not a time"):
        build("epic_kitchens_100", trees / "epic_kitchens_100", cache, annotations=tmp_path / "lists")
