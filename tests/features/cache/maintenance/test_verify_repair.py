"""Damaged shards are found wherever the damage is, and set aside; their clips are planned again."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from cached import findings, planned_ids, result_of

from avfuse.features.cache import DamagedShard, FeatureStore
from avfuse.features.cache.catalog import cached_features
from avfuse.features.cache.maintenance.verify_repair import verify, verify_shard
from avfuse.features.cache.store import ABSENT, DONE, FAILED, NO_SOUND
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec

FORMAT_1 = Path(__file__).parents[1] / "formats" / "1"


def test_a_whole_cache_is_clean(tmp_path: Path, shard: Path) -> None:
    assert findings(tmp_path) == []
    assert findings(tmp_path, repair=True) == []
    assert shard.is_file()


def test_shards_of_the_first_format_are_clean(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1, tmp_path / "set")
    assert findings(tmp_path) == []


def test_pictures_are_verified_too(tmp_path: Path, clips: list[Clip]) -> None:
    (spec,) = resolve(["image:mfcc"], size=(8, 8))
    path = FeatureStore(tmp_path, "set", spec).commit(result_of(spec, clips))
    assert findings(tmp_path) == []
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert [finding.problem for finding in findings(tmp_path)] == ["its bytes do not match its name"]


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, shard: Path) -> None:
    content = shard.read_bytes()
    with h5py.File(shard) as file:
        offsets = {name: file[name].id.get_offset() for name in file}
    regions = {
        "title": 3, "proof": 30, "description": 200, "padding": 4090, "signature": 4097,
        "attribute": content.index(b'"float16"', 4096), **{name: at + 1 for name, at in offsets.items()},
        "end": len(content) - 1,
    }  # fmt: skip
    anywhere = np.random.default_rng(0).integers(0, len(content), 150).tolist()
    for at in (*regions.values(), *anywhere):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        shard.write_bytes(flipped)
        with pytest.raises(DamagedShard):
            verify_shard(shard)
    shard.write_bytes(content)
    verify_shard(shard)


def test_a_shard_cut_anywhere_is_found(tmp_path: Path, shard: Path) -> None:
    content = shard.read_bytes()
    lengths = [0, 1, 11, 4095, 4096, len(content) - 1, *np.random.default_rng(1).integers(0, len(content), 40).tolist()]
    for length in lengths:
        shard.write_bytes(content[:length])
        with pytest.raises(DamagedShard):
            verify_shard(shard)
    shard.write_bytes(content + b"\0")
    with pytest.raises(DamagedShard):
        verify_shard(shard)


def test_a_damaged_shard_is_set_aside_and_its_clips_are_planned_again(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], shard: Path
) -> None:
    other = store.commit(result_of(spec, clips[4:], value=9))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert [finding.path for finding in findings(tmp_path)] == [shard]
    assert shard.is_file()
    (finding,) = findings(tmp_path, repair=True)
    assert "set-aside" in finding.repaired
    assert not shard.exists()
    aside = store.folder / "set-aside" / shard.name
    assert aside.read_bytes() == content
    assert "its bytes do not match its name" in (store.folder / "set-aside" / f"{shard.name}.reason.txt").read_text()
    assert planned_ids(tmp_path, spec, clips) == ["clip-0", "clip-1", "clip-2", "clip-3"]
    assert FeatureStore(tmp_path, "set", spec).load(clips[4:]).data[0, 0] == 9
    assert other.is_file()
    assert findings(tmp_path) == []


def test_two_files_of_one_name_are_both_kept_aside(tmp_path: Path, store: FeatureStore, clips: list[Clip]) -> None:
    for damage in (b"one", b"two"):
        path = store.commit(result_of(store.spec, clips))
        path.write_bytes(damage)
        findings(tmp_path, repair=True)
    kept = {path.read_bytes() for path in (store.folder / "set-aside").glob("*.h5")}
    assert kept == {b"one", b"two"}


def test_rows_that_are_not_finite_are_planned_again_and_the_others_stay(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    result = result_of(spec, clips[:3], clips[3:4], clips[4:])
    result.data[1][7] = np.nan
    result.data[2][0] = np.inf
    path = store.commit(result)
    (finding,) = findings(tmp_path)
    assert finding.path == path
    assert "2 rows, for example of 'clip-1', with values that are not finite" in finding.problem
    findings(tmp_path, repair=True)
    assert (store.folder / "set-aside" / path.name).is_file()
    again = FeatureStore(tmp_path, "set", spec).lookup(clips)
    assert again.outcome.tolist() == [DONE, ABSENT, ABSENT, NO_SOUND, FAILED]
    assert findings(tmp_path) == []


def test_features_can_be_picked(tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path) -> None:
    other = spec.model_copy(update={"name": "lite:waveplot"})
    path = FeatureStore(tmp_path, "set", other).commit(result_of(other, clips))
    path.write_bytes(b"")
    (mine,) = [feature for feature in cached_features(tmp_path, "set") if feature.matches("lite:mfcc")]
    assert list(verify(tmp_path, "set", [mine])) == []
    assert [finding.path for finding in findings(tmp_path)] == [path]


def test_progress_is_reported_in_bytes(tmp_path: Path, shard: Path) -> None:
    sizes: list[int] = []
    list(verify(tmp_path, "set", on_progress=sizes.append))
    assert sizes == [shard.stat().st_size]
