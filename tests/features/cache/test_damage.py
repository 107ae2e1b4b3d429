"""Whatever happens to a shard or to a media file, nothing wrong is ever read as right."""

import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from avfuse import features
from avfuse.features.cache import ChunkResult, ClipQuery, DamagedShard, Failure, FeatureStore, fingerprint
from avfuse.features.cache.shard_reader import NewerFormat, read_shard
from avfuse.features.cache.shard_writer import TABLES
from avfuse.features.cache.store import ABSENT, DONE, FAILED, NO_SOUND
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec

FORMATS = Path(__file__).parent / "formats"


@pytest.fixture
def spec() -> FeatureSpec:
    return resolve(["lite:mfcc"])[0].model_copy(update={"shape": (6,)})


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    folder = tmp_path / "media"
    folder.mkdir()
    clips = [Clip(f"clip-{index:02d}", folder / f"{index:02d}.avi") for index in range(14)]
    for index, clip in enumerate(clips):
        clip.path.write_bytes(bytes([index]) * 1000)
    return clips


@pytest.fixture
def shard(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> Path:
    """Ten clips done, two without sound, two failed."""
    prints = [fingerprint(clip.path) for clip in clips]
    result = ChunkResult(spec, done=list(zip(clips[:10], prints, strict=False)))
    result.data = [np.arange(6, dtype=np.float16) + index for index in range(10)]
    result.no_audio = list(zip(clips[10:12], prints[10:12], strict=True))
    result.failed = [(clips[index], prints[index], Failure("decode", "broken", 2)) for index in (12, 13)]
    return FeatureStore(tmp_path, "set", spec).commit(result)


def what_is_read(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> tuple[bytes, ...] | None:
    """All that a reader learns of these clips; None if it reports damage."""
    try:
        store = FeatureStore(tmp_path, "set", spec)
        result, loaded = store.lookup(clips), store.load(clips)
        table = features.load("set", spec.name, tmp_path)
    except DamagedShard:
        return None
    columns = (result.outcome, result.attempts, loaded.data, loaded.present, table.data, table.encoded_ids)
    return (*(column.tobytes() for column in columns), repr(loaded.missing).encode())


def regions(path: Path) -> dict[str, tuple[int, int]]:
    """Where the parts of a shard lie in its file: first byte and the one behind the last."""
    shard, size = read_shard(path), path.stat().st_size
    content = path.read_bytes()
    places = {"title": (0, content.index(b"\n")), "header": (content.index(b"\n"), content.index(b"\n\n"))}
    places["padding"] = (places["header"][1], content.index(b"\x89HDF"))
    with h5py.File(path) as file:
        for name in TABLES:
            offset = file[name].id.get_offset()
            places[name] = (offset, offset + file[name].nbytes)
    assert shard.data.offset is not None
    places["data"] = (shard.data.offset, shard.data.offset + shard.data.size)
    places["hdf5"] = (places["padding"][1], min(first for first, _ in places.values() if first > places["padding"][1]))
    places["anywhere"] = (0, size)
    return places


@pytest.mark.parametrize("region", ["title", "header", "padding", *TABLES, "data", "hdf5", "anywhere"])
def test_a_flipped_bit_is_named_or_changes_nothing(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path, region: str
) -> None:
    right, content = what_is_read(tmp_path, spec, clips), shard.read_bytes()
    first, end = regions(shard)[region]
    generator = np.random.default_rng(0)
    for at in generator.integers(first, end, 40):
        flipped = bytearray(content)
        flipped[at] ^= 1 << generator.integers(8)
        shard.write_bytes(flipped)
        with suppress(NewerFormat):  # it was the digit of the format's version
            assert what_is_read(tmp_path, spec, clips) is None  # loading looks at every byte
    shard.write_bytes(content)
    assert what_is_read(tmp_path, spec, clips) == right


def test_planning_alone_takes_no_damaged_table_for_right(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path
) -> None:
    content = shard.read_bytes()
    for name in TABLES:
        first, end = regions(shard)[name]
        for at in range(first, end, 7):
            flipped = bytearray(content)
            flipped[at] ^= 1
            shard.write_bytes(flipped)
            with pytest.raises(DamagedShard, match="tables do not match"):
                FeatureStore(tmp_path, "set", spec).lookup(clips)
        shard.write_bytes(content)


def test_damage_names_the_file_and_the_way_out(
    spec: FeatureSpec, clips: list[Clip], shard: Path, tmp_path: Path
) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedShard, match=rf"{shard.name} is damaged .* avfuse features verify --repair"):
        FeatureStore(tmp_path, "set", spec).load(clips)


def test_damage_can_be_told_from_one_process_to_another() -> None:
    restored = pickle.loads(pickle.dumps(DamagedShard(Path("shard-1-2.h5"), "it is cut short")))
    assert (restored.path, restored.reason) == (Path("shard-1-2.h5"), "it is cut short")
    assert "shard-1-2.h5 is damaged (it is cut short)" in str(restored)


def test_two_hundred_cuts_are_all_named(tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path) -> None:
    content = shard.read_bytes()
    for length in np.random.default_rng(1).integers(0, len(content), 200):
        shard.write_bytes(content[:length])
        assert what_is_read(tmp_path, spec, clips) is None


def test_bytes_behind_the_end_are_named(tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path) -> None:
    shard.write_bytes(shard.read_bytes() + b"\0")
    assert what_is_read(tmp_path, spec, clips) is None


def test_a_moved_root_with_the_same_files_is_the_same(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path
) -> None:
    for keep_times in (True, False):
        moved = tmp_path / f"moved-{keep_times}"
        shutil.copytree(tmp_path / "media", moved, copy_function=shutil.copy2 if keep_times else shutil.copyfile)
        there = [Clip(clip.clip_id, moved / clip.path.name) for clip in clips]
        result = FeatureStore(tmp_path, "set", spec).lookup(there)
        assert result.outcome.tolist() == [DONE] * 10 + [NO_SOUND] * 2 + [FAILED] * 2


def test_a_moved_root_with_other_files_under_the_same_names_is_not(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    there = [Clip(clip.clip_id, moved / clip.path.name) for clip in clips]
    for clip, before in zip(there, clips, strict=True):
        clip.path.write_bytes(before.path.read_bytes()[::-1] + b"!")
    assert (FeatureStore(tmp_path, "set", spec).lookup(there).outcome == ABSENT).all()


def test_the_same_size_with_other_content_is_another_file(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path
) -> None:
    content = bytearray(clips[3].path.read_bytes())
    content[500] ^= 1
    clips[3].path.write_bytes(content)
    result = FeatureStore(tmp_path, "set", spec).lookup(ClipQuery(clips))
    assert np.flatnonzero(result.outcome == ABSENT).tolist() == [3]


def test_the_plain_door_refuses_two_intervals_under_one_id(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path
) -> None:
    other = Clip(clips[0].clip_id, clips[0].path, 1.0, 2.0)
    row = np.full(6, 9, np.float16)
    FeatureStore(tmp_path, "set", spec).commit(ChunkResult(spec, done=[(other, fingerprint(other.path))], data=[row]))
    with pytest.raises(UsageError, match="several intervals under one id, for example 'clip-00'"):
        features.load("set", spec.name, tmp_path)
    assert features.load("set", spec.name, tmp_path, clips=[other]).data.tolist() == [row.tolist()]
    assert features.load("set", spec.name, tmp_path, clips=clips[:1]).data[0, 1] == 1


def test_shards_of_every_format_are_read(tmp_path: Path) -> None:
    shutil.copytree(FORMATS / "1", tmp_path / "old")
    table = features.load("old", "lite:mfcc", tmp_path)
    assert dict(zip(table.clip_ids, table.data.tolist(), strict=True)) == {"clip-0": [0, 1, 2, 3], "clip-1": [7] * 4}
    nowhere = tmp_path / "gone"
    queried = [
        Clip("clip-0", nowhere),
        Clip("clip-1", nowhere, 1.5, 3.0),
        Clip("clip-2", nowhere),
        Clip("clip-3", nowhere),
    ]
    result = FeatureStore(tmp_path, "old", table.spec).lookup(queried)
    assert result.outcome.tolist() == [DONE, DONE, NO_SOUND, FAILED]
    assert result.failure(3) == Failure("decode", "broken: ü", 2)


def test_a_newer_format_says_so(tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path) -> None:
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"avfuse shard 2 ", b"avfuse shard 3 ", 1))
    with pytest.raises(NewerFormat, match="format 3, written by a newer avfuse"):
        FeatureStore(tmp_path, "set", spec).lookup(clips)


def test_pictures_are_packed_without_loss(tmp_path: Path, clips: list[Clip]) -> None:
    (spec,) = resolve(["image:mfcc"])
    rows = [np.random.default_rng(index).integers(0, 9, spec.shape).astype(np.uint8) for index in range(3)]
    done = [(clip, fingerprint(clip.path)) for clip in clips[:3]]
    path = FeatureStore(tmp_path, "set", spec).commit(ChunkResult(spec, done=done, data=rows))
    assert path.stat().st_size < 0.6 * 3 * rows[0].nbytes
    np.testing.assert_array_equal(features.load("set", "image:mfcc", tmp_path).data, rows)
    with h5py.File(path) as file:
        assert file["data"].chunks == (1, *spec.shape)
