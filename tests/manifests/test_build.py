"""Manifests of the clips that are there: missing media, probes, collections."""

import shutil
from pathlib import Path

import official_trees
import pandas as pd
import pytest

from avfuse.features.errors import UsageError
from avfuse.manifests import build, load_manifest, save_manifest


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("ucf101", "https://www.crcv.ucf.edu/data/UCF101.php"),
        ("kinetics_sounds", "https://github.com/cvdfoundation/kinetics-dataset"),
        ("vggsound", "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"),
        ("epic_kitchens_100", "https://github.com/epic-kitchens/epic-kitchens-100-annotations"),
    ],
)
def test_where_to_get_what_is_missing(
    trees: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "kinetics400" if name == "kinetics_sounds" else name
    with pytest.raises(UsageError, match=f"'{name}' needs its media: nothing in data/{folder}") as nowhere:
        build(name, None, cache)
    assert address in str(nowhere.value)
    (tmp_path / "clips").mkdir()
    with pytest.raises(UsageError, match=r"not found in .*clips.*: name its folder, ANNOTATIONS=DIR") as no_lists:
        build(name, tmp_path / "clips", cache)
    assert address in str(no_lists.value)
    lists = trees / name
    with pytest.raises(UsageError, match=r"none of the .* clips of .* is in .*: is it the right folder") as no_clips:
        build(name, tmp_path / "clips", cache, annotations=lists)
    assert address in str(no_clips.value)


def test_names_are_looked_at_before_anything_is_written(trees: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a collection"):
        build("ucf101", trees / "ucf101", cache, collection="../evil", probe=True)
    assert not cache.exists()


def test_media_that_moved_take_all_their_data_sets_along(trees: Path, cache: Path, tmp_path: Path) -> None:
    for split in (1, 2):
        save_manifest(cache, build("ucf101", trees / "ucf101", cache, split=split).manifest)
    shutil.copytree(trees / "ucf101", tmp_path / "moved")
    (cache / "manifests" / "stray.csv").write_text("not a manifest")
    moved = build("ucf101", tmp_path / "moved", cache).manifest
    with pytest.raises(UsageError, match="already stands for the media in"):
        save_manifest(cache, moved)
    save_manifest(cache, moved, replace=True)
    assert load_manifest(cache, "ucf101-split2").root == tmp_path / "moved"
    save_manifest(cache, moved)


def test_what_was_probed_is_not_probed_again(trees: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build("ucf101", trees / "ucf101", cache, probe=True, jobs=1)
    assert first.probes is not None
    assert len(first.probes) == len(first.manifest)
    assert set(first.probes["width"]) == {64.0}
    monkeypatch.setattr("avfuse.manifests.media_probes.probe", lambda path: pytest.fail(f"{path} is probed again"))
    again = build("ucf101", trees / "ucf101", cache, split=3, probe=True, jobs=1)
    assert again.probes is not None
    assert len(again.probes) == len(again.manifest)


def test_a_manifest_is_the_same_whenever_it_is_built(trees: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(trees / "vggsound", tmp_path / "copy")
    first, again = (build("vggsound", root, cache).manifest for root in (trees / "vggsound", tmp_path / "copy"))
    pd.testing.assert_frame_equal(first.table, again.table)
    assert first.provenance == again.provenance
    assert set(first.provenance["annotations"]) == {"vggsound.csv"}


def test_an_empty_copy_does_not_hide_a_good_one(trees: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(trees / "ucf101", tmp_path / "more")
    (tmp_path / "more" / "AAA").mkdir()
    (tmp_path / "more" / "AAA" / "v_ApplyEyeMakeup_g01_c01.avi").touch()
    table = build("ucf101", tmp_path / "more", cache).manifest.table.set_index("clip_id")
    assert table.loc["v_ApplyEyeMakeup_g01_c01", "path"].startswith("UCF-101/")


def test_splits_and_subsets_share_clips_by_name(trees: Path, cache: Path) -> None:
    whole = build("ucf101", trees / "ucf101", cache).manifest
    other = build("ucf101", trees / "ucf101", cache, split=2, subset="audio51", jobs=1).manifest
    assert other.name == "ucf101-audio51-split2"
    assert set(other.table["clip_id"]) < set(whole.table["clip_id"])
    save_manifest(cache, whole)
    save_manifest(cache, other)


def test_files_in_archives_are_probed_too(trees: Path, cache: Path) -> None:
    built = build("vggsound", trees / "vggsound", cache, probe=True, jobs=1)
    assert built.probes is not None
    assert built.probes["problem"].isna().all()
    assert set(built.probes["sample_rate_hz"]) == {official_trees.RATE_HZ}
    assert built.counts["unreadable"].tolist() == [0, 0]
