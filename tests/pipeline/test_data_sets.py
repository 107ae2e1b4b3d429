"""The papers' data sets by the commands a user types: manifest, extract, fuse, on small trees in the true layouts."""

from collections.abc import Callable
from pathlib import Path

import official_trees
import pandas as pd
import pytest

from avfuse.features.cache import FeatureStore
from avfuse.features.cache.store import find_spec
from avfuse.features.errors import UsageError
from avfuse.manifests import load_manifest
from avfuse.pipeline.cli.main import avfuse as commands

FEATURES = "lite:frames,lite:mfcc"
Avfuse = Callable[..., str]


@pytest.fixture
def avfuse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Avfuse:
    """Runs a command in a folder; gives what it prints, or the error it is to end with."""

    def run(*arguments: object, cwd: Path, fails: bool = False) -> str:
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        texts = [str(argument) for argument in arguments]
        if fails:
            with pytest.raises(UsageError) as caught:
                commands.main(texts, standalone_mode=False)
            return str(caught.value)
        commands.main(texts, standalone_mode=False)
        return capsys.readouterr().out

    return run


def extract(avfuse: Avfuse, dataset: str, cwd: Path) -> str:
    return avfuse(
        "extract", "--dataset", dataset, "--features", FEATURES, "--frames", "uniform:2", "--workers", 1, cwd=cwd
    )  # fmt: skip


def fuse(avfuse: Avfuse, dataset: str, cwd: Path, fusion: str = "mlp") -> str:
    return avfuse(
        "fuse", "--dataset", dataset, "--fusion", fusion, "--audio", "lite:mfcc", "--seeds", 1, "--epochs", 30,
        "--name", "run", cwd=cwd,
    )  # fmt: skip


@pytest.mark.slow
def test_ucf101_from_nothing_to_a_table(tmp_path: Path, avfuse: Avfuse) -> None:
    output = avfuse("extract", "--dataset", "ucf101", cwd=tmp_path, fails=True)
    assert "data set 'ucf101' needs its media: nothing in data/ucf101" in output
    assert "https://www.crcv.ucf.edu/data/UCF101.php" in output
    assert "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi" in output
    official_trees.ucf101(tmp_path / "data" / "ucf101")
    listed = avfuse("manifest", "ucf101", "--subset", "audio51", cwd=tmp_path)
    assert "ucf101-audio51: 26 clips (10 train, 8 val, 8 test), 2 classes" in listed
    assert "left out, no audio stream: 1 clips, such as v_ApplyEyeMakeup_g08_c02" in listed
    assert "the paper says 4,893" in listed
    assert "26 clips processed" in extract(avfuse, "ucf101-audio51", tmp_path).replace("26 of 26", "26")
    fused = fuse(avfuse, "ucf101-audio51", tmp_path)
    assert "10 train, 8 validation, 8 test clips, 2 classes" in fused
    assert "8    100.0" in fused
    # Another split, and all classes, share what is cached.
    avfuse("manifest", "ucf101", "--subset", "audio51", "--split", 2, cwd=tmp_path)
    assert "nothing to extract: all 26 clips are in the cache" in extract(avfuse, "ucf101-audio51-split2", tmp_path)
    assert "14 of 40 clips processed" in extract(avfuse, "ucf101", tmp_path)
    left_out = pd.read_csv(tmp_path / "cache" / "manifests" / "left-out" / "ucf101.csv")
    assert left_out["why"].tolist() == ["empty (0 bytes)", "not found"]


@pytest.mark.slow
def test_kinetics_sounds(tmp_path: Path, avfuse: Avfuse) -> None:
    root = official_trees.kinetics_sounds(tmp_path / "k400")
    listed = avfuse("manifest", "kinetics_sounds", "--root", root, "--validation", 0.2, "--name", "ks", cwd=tmp_path)
    assert "ks: 23 clips" in listed
    assert "6 test" in listed
    extract(avfuse, "ks", tmp_path)
    assert (tmp_path / "cache" / "kinetics400").is_dir()
    assert "3 classes" in fuse(avfuse, "ks", tmp_path)
    assert not [path for path in root.rglob("*") if path.suffix == ".mp4" and "val" in path.parts]


@pytest.mark.slow
def test_vggsound_from_an_archive_with_several_labels_in_test(tmp_path: Path, avfuse: Avfuse) -> None:
    root = official_trees.vggsound(tmp_path / "vggsound")
    more = ("--vggsounder", root / "vggsounder.csv", "--validation", 0.2, "--name", "vggsound-vggsounder")
    assert "24 clips" in avfuse("manifest", "vggsound", "--root", root, *more, cwd=tmp_path)
    assert "0 failed" in extract(avfuse, "vggsound-vggsounder", tmp_path)
    assert "mAP" in fuse(avfuse, "vggsound-vggsounder", tmp_path)
    manifest = load_manifest(tmp_path / "cache", "vggsound-vggsounder")
    store = FeatureStore(tmp_path / "cache", "vggsound", find_spec(tmp_path / "cache", "vggsound", "lite:frames"))
    loaded = store.load(manifest.clips())
    assert loaded.present.all()


@pytest.mark.slow
def test_epic_kitchens_100_with_two_targets(tmp_path: Path, avfuse: Avfuse) -> None:
    root = official_trees.epic_kitchens_100(tmp_path / "epic")
    listed = avfuse(
        "manifest",
        "epic_kitchens_100",
        "--root",
        root,
        "--validation",
        0.5,
        "--name",
        "epic_kitchens_100",
        cwd=tmp_path,
    )
    assert "3 verb classes, 4 noun classes" in listed
    assert "34 of 34 clips processed" in extract(avfuse, "epic_kitchens_100", tmp_path)
    fused = fuse(avfuse, "epic_kitchens_100", tmp_path, "mlp,average")
    assert "verb" in fused
    assert "noun" in fused
    results = pd.read_csv(tmp_path / "runs" / "epic_kitchens_100" / "run" / "results.csv")
    assert len(results) == 2
    target = tmp_path / "test.json"
    avfuse(
        "runs", "export", tmp_path / "runs" / "epic_kitchens_100" / "run", "--head", "mlp", "--format", "epic",
        "--split", "unlabelled", "-o", target, cwd=tmp_path,
    )  # fmt: skip
    assert '"P02_101_0"' in target.read_text()
    assert '"299"' in target.read_text()


@pytest.fixture
def listed(tmp_path: Path, avfuse: Avfuse) -> Path:
    """A folder with a data set whose group `g` lies on both sides."""
    (tmp_path / "clips").mkdir()
    rows = ["path,label,split,group", "a.mp4,x,train,g", "b.mp4,x,test,g", "c.mp4,y,test,h"]
    (tmp_path / "clips" / "labels.csv").write_text("\n".join([*rows, ""]))
    avfuse("manifest", "folder", "--root", "clips", "--no-probe", cwd=tmp_path)
    return tmp_path


def test_groups_on_both_sides_are_refused_unless_allowed(listed: Path, avfuse: Avfuse) -> None:
    output = avfuse("manifest", "check", "clips", cwd=listed, fails=True)
    assert "1 groups of 'clips' have clips in more than one split (g: train, test)" in output
    allowed = avfuse("manifest", "check", "clips", "--allow-shared-groups", cwd=listed)
    assert "1 class in test without a clip in train, such as 'y'" in allowed
    avfuse(
        "manifest", "folder", "--root", "clips", "--no-probe", "--folds", 2, "--fold", 1, "--name", "clips-fold",
        "--collection", "clips", cwd=listed,
    )  # fmt: skip
    assert "groups lie in one split each" in avfuse("manifest", "check", "clips-fold", cwd=listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["manifest", "ucf"], "unknown data set 'ucf': choose from demo, ucf101, kinetics_sounds"),
        (["manifest", "ucf101", "--root", "nowhere"], "ROOT=nowhere is not a folder"),
        (["manifest", "folder", "--root", "clips", "--clips", "train"], "--clips train: write SPLIT=N"),
        (["manifest", "folder", "--root", "clips", "--label-column", "x"], "has no such column"),
        (["extract", "--dataset", "clips", "--root", "clips"], "data set 'clips' was listed before: leave --root out"),
    ],
)
def test_mistakes_are_one_line(listed: Path, avfuse: Avfuse, arguments: list[str], message: str) -> None:
    output = avfuse(*arguments, cwd=listed, fails=True)
    assert message in output
    assert "\n" not in output


def test_the_help_of_a_data_set_has_its_own_options(listed: Path, avfuse: Avfuse) -> None:
    output = avfuse("manifest", "ucf101", "--help", cwd=listed)
    assert "--subset" in output
    assert "--variant" not in output
    assert "UCF101.rar" in output
    assert "epic_kitchens_100" in avfuse("manifest", "--help", cwd=listed)
