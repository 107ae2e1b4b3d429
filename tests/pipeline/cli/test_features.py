"""`avfuse features` as it is typed: what it prints, its exit codes, and a line for every mistake."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cached import make_clips, result_of

from avfuse.features.backbones import WeightsChoice
from avfuse.features.cache import FeatureStore
from avfuse.features.cache.claims import Claims
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec
from avfuse.manifests import Manifest, save_manifest
from avfuse.pipeline.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Avfuse = Callable[..., Answer]


@pytest.fixture
def avfuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Avfuse:
    """Types a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["avfuse", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert isinstance(code, int | None)
        return Answer(code or 0, said.out, said.err)

    return run


def data_set(cache: Path, clips: list[Clip], name: str, collection: str = "films") -> None:
    table = pd.DataFrame(
        {
            "clip_id": [clip.clip_id for clip in clips],
            "path": [clip.path.name for clip in clips],
            "start": [clip.start for clip in clips],
            "end": [clip.end for clip in clips],
            "label": [("a", "b")[index % 2] for index in range(len(clips))],
            "split": ["test" if index % 4 > 1 else "train" for index in range(len(clips))],
            "group": [str(index) for index in range(len(clips))],
        }
    )
    save_manifest(cache, Manifest(name, collection, clips[0].path.parent, table))


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "media", 40)


@pytest.fixture
def cache(tmp_path: Path, clips: list[Clip]) -> Path:
    """Two data sets of one collection."""
    data_set(tmp_path / "cache", clips, "films")
    data_set(tmp_path / "cache", clips[:10], "few")
    return tmp_path / "cache"


@pytest.fixture
def spec() -> FeatureSpec:
    (spec,) = resolve(["lite:mfcc"], weights=WeightsChoice("random"))
    return spec.model_copy(update={"shape": (8,)})


@pytest.fixture
def store(cache: Path, spec: FeatureSpec, clips: list[Clip]) -> FeatureStore:
    store = FeatureStore(cache, "films", spec)
    store.commit(result_of(spec, clips[:5], clips[5:6], clips[6:8]))
    return store


def test_list_counts_for_every_data_set(avfuse: Avfuse, store: FeatureStore) -> None:
    shown = avfuse("features", "list")
    assert shown.code == 0
    assert "films; data sets: few (10 clips), films (40 clips)" in shown.out
    (line,) = [line for line in shown.out.splitlines() if "lite:mfcc@" in line]
    said = [
        "5 done",
        "1 without audio",
        "2 failed",
        "in 1 shard",
        "pooled 8 float16",
        "lite random",
        "untrained weights",
    ]
    for part in (*said, "missing: 2 of few, 32 of films"):
        assert part in line


def test_list_names_the_missing(avfuse: Avfuse, store: FeatureStore) -> None:
    shown = avfuse("features", "list", "--dataset", "few", "--missing")
    assert "missing (2): clip-8, clip-9" in shown.out
    assert "failed: clip-6: decode: broken: ü (1 attempt)" in shown.out
    assert avfuse("features", "list", "--missing").code == 2


def test_list_for_programs(avfuse: Avfuse, store: FeatureStore, spec: FeatureSpec) -> None:
    (entry,) = json.loads(avfuse("features", "list", "--dataset", "few", "--json").out)["features"]
    assert (entry["collection"], entry["name"], entry["key"]) == ("films", "lite:mfcc", spec.key)
    assert (entry["done"], entry["no_audio"], entry["failed"], entry["missing"]) == (5, 1, 2, {"few": 2})
    assert entry["missing_clips"] == ["clip-8", "clip-9"]
    assert entry["failed_clips"]["clip-7"] == {"reason": "decode: broken: ü", "attempts": 1}
    assert entry["untrained"] is True
    assert FeatureSpec.model_validate(entry["spec"]) == spec


def test_list_goes_on_past_damage_and_tells_of_old_revisions(
    avfuse: Avfuse, store: FeatureStore, clips: list[Clip]
) -> None:
    store.paths()[0].write_bytes(b"")
    reader = store.spec.input.reader.model_copy(update={"revision": 1})
    old = store.spec.model_copy(update={"input": store.spec.input.model_copy(update={"reader": reader})})
    FeatureStore(store.folder.parents[1], "films", old).commit(result_of(old, clips))
    shown = avfuse("features", "list")
    assert shown.code == 0
    assert f"{store.folder.name}  cannot be read" in shown.out
    assert "cannot be made any more: reader pyav of revision 1" in shown.out
    assert "verify --repair" in shown.out


def test_an_empty_cache_says_so(avfuse: Avfuse, cache: Path) -> None:
    shown = avfuse("features", "list")
    assert (shown.code, shown.out) == (0, "no features in cache: avfuse extract makes some\n")
    assert "avfuse extract" in avfuse("features", "list", "--dataset", "few").out


def test_verify_ends_with_0_when_all_is_well(avfuse: Avfuse, store: FeatureStore) -> None:
    done = avfuse("features", "verify")
    assert done.code == 0
    assert "1 feature, 1 shard," in done.out
    assert "nothing wrong" in done.out
    assert done.err == ""


def test_verify_ends_with_1_until_it_is_repaired(avfuse: Avfuse, store: FeatureStore, clips: list[Clip]) -> None:
    path = store.paths()[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    done = avfuse("features", "verify")
    assert done.code == 1
    assert f"{path.relative_to(Path.cwd())}: its bytes do not match its name" in done.out
    assert "1 found, 0 repaired" in done.out
    assert avfuse("features", "verify", "lite:mfcc", "--dataset", "few").code == 1
    done = avfuse("features", "verify", "--repair")
    assert done.code == 0
    assert "set aside" in done.out
    assert avfuse("features", "verify").code == 0


def test_verify_ends_with_1_for_what_it_cannot_repair(avfuse: Avfuse, store: FeatureStore) -> None:
    (store.folder / "notes.txt").touch()
    done = avfuse("features", "verify", "--repair")
    assert done.code == 1
    assert "does not belong" in done.out


def test_remove_shows_first(avfuse: Avfuse, store: FeatureStore) -> None:
    shown = avfuse("features", "remove", "lite:mfcc", "--dataset", "few")
    assert shown.code == 0
    assert "add --yes" in shown.out
    assert "rows of 8 clips" in shown.out
    assert store.folder.exists()
    assert avfuse("features", "remove", "lite:mfcc", "--dataset", "few", "--yes").code == 0
    assert not store.folder.exists()


def test_remove_what_nobody_can_ask_for(avfuse: Avfuse, store: FeatureStore, clips: list[Clip]) -> None:
    spec = store.spec
    gone = Clip("gone", clips[0].path)
    store.commit(result_of(spec, [gone, clips[9]]))
    cache = store.folder.parents[1]
    reader = spec.input.reader.model_copy(update={"revision": 1})
    old = FeatureStore(
        cache, "films", spec.model_copy(update={"input": spec.input.model_copy(update={"reader": reader})})
    )
    old.commit(result_of(old.spec, clips[:3]))
    shown = avfuse("features", "remove", "--unreachable", "--dataset", "films")
    assert f"lite:mfcc@{old.spec.key}: all of it (reader pyav of revision 1, now 2)" in shown.out
    assert f"lite:mfcc@{spec.key}: 1 clip (listed by no data set)" in shown.out
    assert old.folder.exists()
    assert avfuse("features", "remove", "--unreachable", "--dataset", "films", "--yes").code == 0
    assert not old.folder.exists()
    kept = FeatureStore(cache, "films", spec)
    assert b"gone" not in kept.rows().clip_id
    assert kept.load([clips[9]]).data[0, 0] == 1
    assert "nothing to remove" in avfuse("features", "remove", "--unreachable", "--dataset", "films").out


def test_remove_waits_for_no_run(avfuse: Avfuse, store: FeatureStore, cache: Path) -> None:
    _, claim = Claims(cache, "films").acquire([1])
    assert claim is not None
    done = avfuse("features", "remove", "lite:mfcc", "--dataset", "films", "--yes")
    claim.release()
    assert done.code == 2
    assert "a run is extracting clips" in done.err
    assert store.folder.exists()


@pytest.mark.parametrize("name", ["out/rows.npz", "out/rows.safetensors"])
def test_export_writes_a_file(avfuse: Avfuse, store: FeatureStore, name: str) -> None:
    done = avfuse("features", "export", "lite:mfcc", "--dataset", "few", "-o", name)
    assert done.code == 0, done.err
    assert "of 5 clips, pooled 8 float16, 5 missing" in done.out
    assert "untrained weights" in done.out
    assert Path(name).is_file()


def import_arrays(avfuse: Avfuse, clips: list[Clip], name: str, **options: str) -> Answer:
    """Two classes that a feature tells apart."""
    Path(name).mkdir(exist_ok=True)
    for index, clip in enumerate(clips):
        rows = np.random.default_rng(index).normal(size=(3 + index % 4, 6)) + 4 * (index % 2)
        np.save(f"{name}/{clip.path.stem}_rgb.npy", rows.astype(np.float32))
    said = {"modality": "video", "description": f"{name}, made up", "reduce": "mean", **options}
    flags = [part for key, value in said.items() for part in (f"--{key}", value)]
    pattern = "{stem}_rgb.npy"
    return avfuse("features", "import", name, "--dataset", "films", "--name", name, "--pattern", pattern, *flags)


def test_what_was_imported_is_fused(avfuse: Avfuse, cache: Path, clips: list[Clip]) -> None:
    done = import_arrays(avfuse, clips, "i3d")
    assert done.code == 0, done.err
    assert "imported:i3d@" in done.out
    assert "40 clips new, pooled 6 float16" in done.out
    assert import_arrays(avfuse, clips, "vggish", modality="audio", reduce="uniform:2").code == 0
    listed = avfuse("features", "list").out
    assert "imported (i3d, made up)" in listed
    assert avfuse("features", "verify").code == 0
    fused = avfuse(
        "fuse", "--dataset", "films", "--video", "imported:i3d", "--audio", "imported:vggish", "--fusion", "average",
        "--seeds", 1, "--epochs", 2, "--device", "cpu",
    )  # fmt: skip
    assert fused.code == 0, fused.err
    results = pd.read_csv("runs/films/average/results.csv")
    assert len(results) == 1


def test_import_names_clips_without_a_file(avfuse: Avfuse, cache: Path, clips: list[Clip]) -> None:
    done = import_arrays(avfuse, clips[:38], "i3d")
    assert done.code == 0
    assert "missing, without a file (2): clip-38, clip-39" in done.out
    again = import_arrays(avfuse, clips[:38], "i3d")
    assert "0 clips new, 38 were there already" in again.out
    assert import_arrays(avfuse, clips, "other", modality="audio").code == 0
    fused = avfuse("fuse", "--dataset", "films", "--video", "imported:i3d", "--audio", "imported:other")
    assert fused.code == 2
    assert "import its files with avfuse features import --dataset films" in fused.err


MISTAKES = {
    "no cache": (["list", "--cache", "nowhere"], "there is no cache in nowhere"),
    "no data set": (["list", "--dataset", "nothing"], "no data set 'nothing'"),
    "verify nothing of that name": (["verify", "lite:frames"], "'lite:frames' is not cached"),
    "remove nothing": (["remove", "--dataset", "films"], "say --unreachable"),
    "remove both": (["remove", "lite:mfcc", "--unreachable", "--dataset", "films"], "say --unreachable"),
    "remove what is not there": (["remove", "lite:frames", "--dataset", "films"], "see avfuse features list"),
    "export to no kind": (
        ["export", "lite:mfcc", "--dataset", "films", "-o", "rows.pt"],
        "must end in .npz or .safetensors",
    ),
    "export what is not there": (["export", "lite:frames", "--dataset", "films", "-o", "rows.npz"], "is not cached"),
    "import from nowhere": (
        ["import", "no", "--dataset", "films", "--name", "x", "--modality", "video", "--description", "x"],
        "no is not a folder",
    ),
    "import an odd modality": (
        ["import", "no", "--dataset", "films", "--name", "x", "--modality", "smell", "--description", "x"],
        "smell",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(avfuse: Avfuse, store: FeatureStore, mistake: str) -> None:
    arguments, named = MISTAKES[mistake]
    answer = avfuse("features", *arguments)
    assert answer.code == 2
    assert answer.err.startswith("avfuse: ")
    assert answer.err.count("\n") == 1
    assert named in answer.err


def test_extract_says_that_imports_are_imported(avfuse: Avfuse, cache: Path) -> None:
    answer = avfuse("extract", "--dataset", "films", "--features", "imported:i3d")
    assert answer.code == 2
    assert "avfuse features import" in answer.err
    assert answer.err.count("\n") == 1


def test_help_teaches(avfuse: Avfuse) -> None:
    for command in ([], ["list"], ["verify"], ["remove"], ["export"], ["import"]):
        shown = avfuse("features", *command, "--help")
        assert shown.code == 0
        assert "avfuse features" in shown.out
