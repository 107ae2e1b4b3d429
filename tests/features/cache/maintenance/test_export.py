"""Features are exported as they are in the cache."""

import json
from pathlib import Path

import numpy as np
import pytest
from cached import make_clips, result_of
from safetensors import safe_open

from avfuse.features.cache import FeatureStore
from avfuse.features.cache.maintenance import export as exporting
from avfuse.features.cache.maintenance.export import export
from avfuse.features.cache.maintenance.verify_repair import verify
from avfuse.features.cache.shard_reader import DamagedShard
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec


@pytest.fixture
def spec() -> FeatureSpec:
    return resolve(["lite:frames"], sampling="uniform:3")[0].model_copy(update={"shape": (3, 4)})


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "media", 6)


@pytest.fixture
def store(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> FeatureStore:
    """Five of six clips in two shards, out of order: one of them failed."""
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(result_of(spec, [clips[3], clips[0]], failed=clips[4:5], value=10))
    store.commit(result_of(spec, [clips[1], clips[2]], value=20))
    return store


VALUES = {"clip-0": 11, "clip-1": 20, "clip-2": 21, "clip-3": 10}


def test_npz_round_trip(tmp_path: Path, store: FeatureStore, clips: list[Clip]) -> None:
    written = export(store, clips, tmp_path / "out.npz")
    assert written.clips == 4
    with np.load(tmp_path / "out.npz", allow_pickle=False) as saved:
        ids = [clip_id.decode() for clip_id in saved["clip_id"]]
        assert ids == ["clip-0", "clip-1", "clip-2", "clip-3"]
        assert saved["data"].dtype == np.float16
        assert saved["data"].shape == (4, 3, 4)
        assert saved["data"][:, 2, 3].tolist() == [VALUES[clip_id] for clip_id in ids]
        assert saved["missing"].tolist() == [b"clip-4", b"clip-5"]
        assert [why.decode() for why in saved["missing_because"]] == ["failed (decode: broken: ü)", "not extracted"]
        assert FeatureSpec.model_validate_json(saved["spec"].item()) == store.spec
        assert not saved["untrained"]
    assert {path.name for path in tmp_path.iterdir()} == {"media", "set", "out.npz"}


def test_safetensors_round_trip(tmp_path: Path, store: FeatureStore, clips: list[Clip]) -> None:
    assert store.spec.model is not None
    untrained = store.spec.model_copy(update={"model": store.spec.model.model_copy(update={"untrained": True})})
    other = FeatureStore(tmp_path, "set", untrained)
    other.commit(result_of(untrained, clips[:3], value=5))
    export(other, clips[::-1], tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "np") as saved:
        assert set(saved.keys()) == {"clip_id", "data"}
        ids = [bytes(row).rstrip(b"\0").decode() for row in saved.get_tensor("clip_id")]
        assert ids == ["clip-2", "clip-1", "clip-0"]
        assert saved.get_tensor("data")[:, 0, 0].tolist() == [7, 6, 5]
        metadata = saved.metadata()
    assert FeatureSpec.model_validate_json(metadata["spec"]) == untrained
    assert metadata["untrained"] == "true"
    assert json.loads(metadata["missing"])["clip-5"] == "not extracted"


def test_pictures_export_as_bytes(tmp_path: Path, clips: list[Clip]) -> None:
    (spec,) = resolve(["image:mfcc"], size=(8, 10))
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(result_of(spec, clips, value=3))
    for name in ("out.npz", "out.safetensors"):
        export(store, clips, tmp_path / name)
    with np.load(tmp_path / "out.npz") as saved, safe_open(tmp_path / "out.safetensors", "np") as other:
        assert saved["data"].dtype == np.uint8
        assert saved["data"].shape == (6, 8, 10, 3)
        np.testing.assert_array_equal(saved["data"], other.get_tensor("data"))


def test_a_damaged_shard_is_not_exported_and_nothing_is_left(
    tmp_path: Path, store: FeatureStore, clips: list[Clip]
) -> None:
    target = tmp_path / "out.npz"
    target.write_text("the export of yesterday")
    path = store.paths()[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedShard):
        export(store, clips, target)
    assert target.read_text() == "the export of yesterday"
    assert {path.name for path in tmp_path.iterdir()} == {"media", "set", "out.npz"}


def test_a_shard_rewritten_while_it_is_exported_is_looked_up_again(
    tmp_path: Path, store: FeatureStore, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(result_of(store.spec, clips[:2], value=10))
    read, repaired = exporting.read_rows, False

    def repair_then_read(*arguments: object) -> object:
        nonlocal repaired
        if not repaired:
            repaired = True
            list(verify(tmp_path, "set", repair=True))
        return read(*arguments)  # type: ignore[arg-type]

    export(store, clips, tmp_path / "before.npz")
    monkeypatch.setattr(exporting, "read_rows", repair_then_read)
    export(FeatureStore(tmp_path, "set", store.spec), clips, tmp_path / "after.npz")
    assert repaired
    with np.load(tmp_path / "before.npz") as before, np.load(tmp_path / "after.npz") as after:
        np.testing.assert_array_equal(before["data"], after["data"])


@pytest.mark.parametrize("name", ["out.npy", "out", "out.h5"])
def test_other_endings_are_refused(tmp_path: Path, store: FeatureStore, clips: list[Clip], name: str) -> None:
    with pytest.raises(UsageError, match=r"must end in \.npz or \.safetensors"):
        export(store, clips, tmp_path / name)


def test_nothing_to_export_is_a_line(tmp_path: Path, store: FeatureStore, clips: list[Clip]) -> None:
    with pytest.raises(UsageError, match="none of these 2 clips"):
        export(store, clips[4:], tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
