"""Any folder becomes a manifest, or one line says why not."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest, Target, build, list_manifests, load_manifest, save_manifest


def build_folder(root: Path, **options: Any) -> Manifest:
    return build("folder", root, root / "no-cache", **options).manifest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for label in ("run", "jump"):
        for index in range(10):
            path = tmp_path / "clips" / label / f"{label}{index}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "clips" / "notes.txt").touch()
    return tmp_path / "clips"


def write_labels(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder


def test_sub_folders_are_classes(tree: Path) -> None:
    manifest = build_folder(tree)
    assert manifest.name == "clips"
    assert [target.classes for target in manifest.targets] == [("jump", "run")]
    assert len(manifest) == 20
    assert (manifest.table["split"] == "test").sum() == 4
    assert manifest.table.query("split == 'test'")["label"].value_counts().to_dict() == {"jump": 2, "run": 2}


def test_the_split_is_the_same_every_time_and_recorded(tree: Path) -> None:
    first, second = build_folder(tree), build_folder(tree)
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.provenance["split"]["seed"] == 0


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"file": f"{i}.mp4", "verb": "ab"[i % 2], "video": f"v{i // 4}"} for i in range(80)]
    manifest = build_folder(write_labels(tmp_path / "set", rows), label_column="verb", group_column="video")
    sides = manifest.table.groupby("group")["split"].nunique()
    assert (sides == 1).all()
    assert 10 <= (manifest.table["split"] == "test").sum() <= 22


def test_only_named_columns_are_read(tmp_path: Path) -> None:
    rows = [{"file": f"{i}.mp4", "label": "a", "start_seconds": 30, "vggsound_split": "test"} for i in range(5)]
    table = build_folder(write_labels(tmp_path / "set", rows)).table
    assert table["start"].isna().all()
    assert set(table["split"]) == {"train", "test"}


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", " a", "manifests", "media", "a\\b", "a\nb"])
def test_a_name_that_is_no_folder_name_is_refused(tree: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        Manifest(name, name, tree, build_folder(tree).table)


def test_segments_of_one_file_are_clips_of_one_group(tmp_path: Path) -> None:
    rows = [{"path": "long.mp4", "start": s, "end": s + 2.5, "label": "a", "split": "train"} for s in (0, 2.5)]
    table = build_folder(write_labels(tmp_path / "set", rows)).table
    assert table["clip_id"].tolist() == ["long@0-2.5", "long@2.5-5"]
    assert len(set(table["group"])) == 1


def test_files_that_differ_only_in_suffix_keep_it(tmp_path: Path) -> None:
    for name in ("a.avi", "a.mp4", "b.avi"):
        (tmp_path / name).touch()
    table = build_folder(tmp_path).table
    assert table["clip_id"].tolist() == ["a.avi", "a.mp4", "b"]
    assert table["label"].isna().all()


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        ([{"name": "a.mp4"}], {}, "no column 'path' or 'file'"),
        ([{"file": "a.mp4"}], {"label_column": "verb"}, "--label-column verb"),
        ([{"file": "a.mp4", "label": "x"}, {"file": " ", "label": "x"}], {}, "line 3: column 'file' is empty"),
        ([{"file": "a.mp4"}], {"targets": ["verb"]}, "target 'verb': .* has no such column"),
        ([{"file": "a.mp4", "start": 1}], {"several": ["start"]}, "column 'start' has another meaning"),
        ([{"file": "a.mp4", "start": "soon", "label": "x"}], {}, "column 'start'"),
        ([{"file": "a.mp4", "start": 3, "end": 1, "label": "x", "split": "train"}], {}, "end is after start"),
        ([{"file": "a.mp4", "label": "x", "split": "training"}], {}, "column 'split', row 0: 'training'"),
        ([{"file": "a.mp4", "label": "x"}, {"file": "a.mp4", "label": "y"}], {}, "clip_id"),
    ],
)
def test_wrong_tables_are_refused_by_name(
    tmp_path: Path, rows: list[dict[str, object]], options: dict[str, str], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        build_folder(write_labels(tmp_path / "set", rows), **options)


def test_a_folder_without_media_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no media files"):
        build_folder(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        build_folder(tmp_path / "nowhere")


def test_a_data_set_needs_its_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ROOT=DIR"):
        build("folder", None, tmp_path)
    with pytest.raises(UsageError, match="unknown data set 'ucf'"):
        build("ucf", None, tmp_path)
    with pytest.raises(UsageError, match="takes no --label-column"):
        build("demo", tmp_path, tmp_path, label_column="x")


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_manifests_survive_the_disk(tmp_path: Path, format: str) -> None:
    rows = [
        {"path": f"{i}.mp4", "start": i / 3, "end": i + 1 / 7, "verb": 'Zürich, "x"', "tags": "a | b" if i else ""}
        for i in range(10)
    ]
    manifest = build_folder(write_labels(tmp_path / "clips", rows), targets=["verb"], several=["tags"])
    cache = tmp_path / "cache"
    path = save_manifest(cache, manifest, format=format)
    read = load_manifest(cache, "clips")
    pd.testing.assert_frame_equal(read.table, manifest.table)
    assert (read.root, read.collection, read.provenance) == (manifest.root, "clips", manifest.provenance)
    assert read.targets == manifest.targets == (
        Target("verb", ("Zürich, \"x\"",)), Target("tags", ("a", "b"), several=True),
    )  # fmt: skip
    other = save_manifest(cache, manifest, format="csv" if format == "parquet" else "parquet")
    assert other.exists()
    assert not path.exists()
    assert list_manifests(cache) == ["clips"]


def test_a_table_of_ones_own_needs_no_place_of_its_own(tree: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("file,what,who\nrun/run0.avi,run|fast,a\njump/jump1.avi,jump,b\n")
    built = build("csv", tree, tmp_path, table=table, several=["what"], group_column="who", name="mine")
    assert (built.manifest.name, built.manifest.collection) == ("mine", "mine")
    assert built.manifest.targets == (Target("what", ("fast", "jump", "run"), several=True),)
    assert set(built.manifest.provenance["annotations"]) == {"mine.csv"}
    with pytest.raises(UsageError, match="needs its table: TABLE=FILE"):
        build("csv", tree, tmp_path)


def test_a_class_that_a_target_does_not_have_is_refused(tree: Path) -> None:
    table = build_folder(tree).table
    with pytest.raises(UsageError, match="column 'label' names 'run', which is none of its 1 classes"):
        Manifest("x", "x", tree, table, targets=(Target("label", ("jump",)),))


def test_a_name_stands_for_one_root(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    manifest = build_folder(tree)
    save_manifest(cache, manifest)
    moved = Manifest("clips", "clips", tmp_path / "elsewhere", manifest.table)
    with pytest.raises(UsageError, match="NAME="):
        save_manifest(cache, moved)
    save_manifest(cache, moved, replace=True)
    assert load_manifest(cache, "clips").root == tmp_path / "elsewhere"


def test_a_missing_or_foreign_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set 'x'"):
        load_manifest(tmp_path, "x")
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "x.parquet").write_text("nonsense")
    with pytest.raises(UsageError, match="not a manifest"):
        load_manifest(tmp_path, "x")


@pytest.mark.parametrize("path", ["../elsewhere.avi", "/etc/passwd", "sub/../../elsewhere.avi", ".."])
def test_a_path_that_leaves_the_root_is_refused_unless_allowed(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "labels.csv").write_text(f"path,label\ninside/a.avi,x\n{path},y\n")
    with pytest.raises(UsageError, match="leaves the root"):
        build_folder(tmp_path / "root")
    manifest = build_folder(tmp_path / "root", outside_root=True)
    save_manifest(tmp_path / "cache", manifest)
    assert load_manifest(tmp_path / "cache", "root").clips()[1].path == tmp_path / "root" / path


def test_a_path_with_dots_that_stays_inside_is_as_good_as_another(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\nsub/../a.avi,x\n..a.avi,y\n")
    assert len(build_folder(tmp_path)) == 2


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(UsageError, match="has no rows"):
        build_folder(tmp_path)


def test_spaces_in_a_header_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path, label\na.mp4,x\nb.mp4,y\n")
    assert build_folder(tmp_path).table["label"].tolist() == ["x", "y"]


def test_a_row_with_more_cells_than_the_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\na.mp4,bird chirping, tweeting\nb.mp4,rain\n")
    with pytest.raises(UsageError, match="more cells than the header"):
        build_folder(tmp_path)


@pytest.mark.parametrize("builder", ["folder", "csv"])
def test_columns_that_may_hold_what_is_missing_are_named(tmp_path: Path, builder: str) -> None:
    """Labels and groups under names of their own would be lost without a word."""
    rows = [{"file": f"{i}.mp4", "action": "ab"[i % 2], "source": f"v{i // 4}"} for i in range(8)]
    root = write_labels(tmp_path / "set", rows)

    def notes(**options: Any) -> list[str]:
        table = {"table": root / "labels.csv"} if builder == "csv" else {}
        return [note for note in build(builder, root, tmp_path, **table, **options).notes if "not read" in note]

    (note,) = notes()
    assert "action, source; is one of them for --label-column, --group-column, --split-column?" in note
    (note,) = notes(label_column="action")
    assert "source; is one of them for --group-column, --split-column?" in note
    assert notes(label_column="action", group_column="source") == []
    (note,) = notes(targets=("action",))
    assert "source; is one of them for --group-column" in note


def test_folders_that_are_splits_are_pointed_out(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "run").mkdir(parents=True)
        (tmp_path / part / "run" / "a.avi").touch()
    built = build("folder", tmp_path, tmp_path / "no-cache")
    assert any("write a labels.csv with a column split" in note for note in built.notes)
