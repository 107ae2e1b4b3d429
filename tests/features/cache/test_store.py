"""The cache keeps what it was given, proves it, and never takes one thing for another."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from avfuse import features
from avfuse.features.cache import ChunkResult, Failure, FeatureStore, fingerprint
from avfuse.features.cache.store import ABSENT, DONE, FAILED, find_spec
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec


@pytest.fixture
def spec() -> FeatureSpec:
    return resolve(["lite:mfcc"])[0]


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    folder = tmp_path / "media"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.avi").write_bytes(bytes([index]) * 200_000)
    return [Clip(f"clip-{index}", folder / f"{index}.avi") for index in range(5)]


def rows_for(spec: FeatureSpec, clips: list[Clip], value: float = 0.0) -> ChunkResult:
    """The first three clips done, one without audio, one failed."""
    result = ChunkResult(spec)
    for index, clip in enumerate(clips[:3]):
        result.done.append((clip, fingerprint(clip.path)))
        result.data.append(np.full(spec.shape, index + value, dtype=np.float32))
    for clip in clips[3:4]:
        result.no_audio.append((clip, fingerprint(clip.path)))
    for clip in clips[4:5]:
        result.failed.append((clip, fingerprint(clip.path), Failure("decode", "broken: ü", attempts=2)))
    return result


def outcome(store: FeatureStore, clip: Clip) -> int:
    return int(store.lookup([clip]).outcome[0])


def test_find_is_the_old_name_of_lookup(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    path = store.commit(rows_for(spec, clips))
    with pytest.warns(FutureWarning, match="store.FeatureStore.lookup' now"):
        assert store.find(clips).outcome.tolist() == store.lookup(clips).outcome.tolist()
    with pytest.warns(FutureWarning, match="store.FeatureStore.lookup' now"):
        assert (store.find(clips, beyond={path.name}).outcome == ABSENT).all()


def test_rows_come_back_in_the_order_asked(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    loaded = FeatureStore(tmp_path, "set", spec).load(clips[::-1])
    assert loaded.present.tolist() == [False, False, True, True, True]
    assert loaded.data[2:, 0].tolist() == [2, 1, 0]
    assert np.isnan(loaded.data[:2]).all()
    assert loaded.missing == {"clip-4": "failed (decode: broken: ü)", "clip-3": "no audio stream"}


def test_a_shard_reads_with_plain_h5py(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    path = FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    with h5py.File(path) as file:
        ids = [name.decode() for name in file["clip_id"]]
        assert dict(zip(ids, file["data"][:, 0].tolist(), strict=True)) == {"clip-0": 0, "clip-1": 1, "clip-2": 2}
        assert len(file["clip_id"]) + len(file["no_audio"]) + len(file["failed"]) == 5
        assert file["failed"][0]["attempts"] == 2
        assert json.loads(file.attrs["spec"])["name"] == "lite:mfcc"
        assert all(file[name].dtype.kind != "O" for name in file)


def test_the_name_is_the_hash_and_nothing_else_is_left_in_the_folder(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip]
) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    path = store.commit(rows_for(spec, clips))
    assert {entry.name for entry in store.folder.iterdir()} == {path.name, "spec.json"}


def test_a_flipped_bit_is_found(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    path = FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    content = bytearray(path.read_bytes())
    content[content.index(np.float16(2).tobytes() * 20)] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        FeatureStore(tmp_path, "set", spec).load(clips)
    with pytest.raises(UsageError, match="damaged"):
        features.load("set", "lite:mfcc", cache=tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_shard_cut_short_is_named(tmp_path: Path, spec: FeatureSpec, clips: list[Clip], share: float) -> None:
    path = FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match=f"{path.name} is damaged"):
        FeatureStore(tmp_path, "set", spec).load(clips)


def test_a_replaced_and_extracted_file_gives_its_new_row(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(rows_for(spec, clips))
    clips[0].path.write_bytes(b"other" * 40_000)
    store.commit(rows_for(spec, clips[:1], value=50))
    assert store.load(clips[:1]).data[0, 0] == 50
    assert features.load("set", "lite:mfcc", cache=tmp_path).data[0, 0] == 50


def test_a_replaced_file_or_another_interval_is_not_the_same_clip(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip]
) -> None:
    FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    clips[0].path.write_bytes(b"other" * 40_000)
    store = FeatureStore(tmp_path, "set", spec)
    assert outcome(store, clips[0]) == ABSENT
    assert outcome(store, Clip("clip-1", clips[1].path, start=1.0, end=2.0)) == ABSENT
    assert outcome(store, clips[1]) == DONE


def test_a_touched_but_equal_file_is_the_same_clip(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    os.utime(clips[0].path, ns=(1, 1))
    assert outcome(FeatureStore(tmp_path, "set", spec), clips[0]) == DONE


def test_features_outlive_their_media(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    clips[0].path.unlink()
    assert FeatureStore(tmp_path, "set", spec).load(clips[:1]).present.all()


def test_a_folder_in_a_files_place_is_not_planned_again(tmp_path: Path, spec: FeatureSpec) -> None:
    clip = Clip("folder", tmp_path / "folder.avi")
    clip.path.mkdir()
    failure = (clip, fingerprint(clip.path), Failure("open", "is a folder"))
    FeatureStore(tmp_path, "set", spec).commit(ChunkResult(spec, failed=[failure]))
    assert outcome(FeatureStore(tmp_path, "set", spec), clip) == FAILED


def test_a_later_success_outweighs_an_earlier_failure(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(rows_for(spec, clips))
    again = ChunkResult(
        spec, done=[(clips[4], fingerprint(clips[4].path))], data=[np.full(spec.shape, 7.0, np.float32)]
    )
    store.commit(again)
    assert outcome(store, clips[4]) == DONE


def test_variants_of_a_feature_never_mix(tmp_path: Path, clips: list[Clip]) -> None:
    first, second = (resolve(["lite:frames"], sampling=sampling)[0] for sampling in ("uniform:4", "uniform:8"))
    for spec in (first, second):
        FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    with pytest.raises(UsageError, match=f"lite:frames@{first.key}"):
        find_spec(tmp_path, "set", "lite:frames")
    assert find_spec(tmp_path, "set", f"lite:frames@{second.key}") == second


def test_load_gives_every_row(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    table = features.load("set", "lite:mfcc", cache=tmp_path)
    assert table.clip_ids == ["clip-0", "clip-1", "clip-2"]
    assert table.data[:, 5].tolist() == [0, 1, 2]


def test_reading_while_another_run_writes_gives_whole_rows(tmp_path: Path, spec: FeatureSpec) -> None:
    nowhere = tmp_path / "media"
    clips = [Clip(f"clip-{index:03d}", nowhere / f"{index}.avi") for index in range(60)]

    def write() -> None:
        store = FeatureStore(tmp_path, "set", spec)
        for index, clip in enumerate(clips):
            row = np.full(spec.shape, index, np.float32)
            store.commit(ChunkResult(spec, done=[(clip, fingerprint(clip.path))], data=[row]))

    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(write)
        reader, seen = FeatureStore(tmp_path, "set", spec), 0
        while seen < len(clips):
            loaded = reader.load(clips)
            np.testing.assert_array_equal(loaded.data[loaded.present, 0], np.flatnonzero(loaded.present))
            assert loaded.present.sum() >= seen
            seen = int(loaded.present.sum())
        written.result()


def test_what_is_not_cached_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make extract DATASET=set FEATURES=lite:mfcc"):
        features.load("set", "lite:mfcc", cache=tmp_path)


def test_what_is_not_cached_names_what_is(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    with pytest.raises(UsageError, match=f"in {tmp_path}, which has no features: "):
        features.load("set", "lite:mfcc", cache=tmp_path)
    FeatureStore(tmp_path, "set", spec).commit(rows_for(spec, clips))
    with pytest.raises(
        UsageError, match=f"'lite:images' is not cached for 'set' in {tmp_path}, which has {spec.name}: "
    ):
        features.load("set", "lite:images", cache=tmp_path)
    with pytest.raises(UsageError, match=f"for 'sat' in {tmp_path}, which has features of set: "):
        features.load("sat", spec.name, cache=tmp_path)
