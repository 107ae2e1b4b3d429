"""A stream gives every clip once, with the rows that loading gives, in bounded memory, and says what went wrong."""

import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avfuse.features.cache import ChunkResult, DamagedShard, FeatureStore, fingerprint, streaming
from avfuse.features.cache.shard_reader import read_rows
from avfuse.features.cache.streaming import FeatureBatch, FeatureStream
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec

CLIPS = 60
SHARD = 8
ROW_BYTES = 2**15
SCRATCH_BYTES = 384 * 1024
"""The block that files are read through, and Python's own objects."""


@dataclass(frozen=True)
class Cached:
    """Three features of 60 clips. `video` is the largest, 8 clips a shard; `sound` is cut alike; `images`, of whole
    numbers, after 13 and then every 17 clips. Some clips have one or two of them, two have none."""

    clips: list[Clip]
    stores: dict[str, FeatureStore]

    def stream(self, *names: str, batch_size: int = 7, shards_per_window: int = 2, **options: Any) -> FeatureStream:
        features = {name: self.stores[name] for name in names or self.stores}
        per_clip = sum(store.spec.bytes_per_clip for store in features.values())
        options = {"window_bytes": shards_per_window * SHARD * per_clip, **options}
        return FeatureStream(features, self.clips, batch_size, **options)


SHAPES = {"video": (5, 8), "sound": (6,), "images": (2, 2, 3)}
MISSING = {"video": {3, 17, 18, 40}, "sound": {4, 17, 40, 41}, "images": {5, 17, 41, 40}}
CUTS = {"video": range(SHARD, CLIPS, SHARD), "sound": range(SHARD, CLIPS, SHARD), "images": range(13, CLIPS, 17)}
NOWHERE = [17, 40]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Cached:
    folder = tmp_path_factory.mktemp("cached")
    clips = make_clips(folder, CLIPS)
    stores = {name: fill(folder, spec_of(name), clips, CUTS[name], MISSING[name]) for name in SHAPES}
    return Cached(clips, stores)


def spec_of(name: str, shape: tuple[int, ...] | None = None) -> FeatureSpec:
    dtype = "uint8" if name == "images" else "float16"
    changes = {"name": name, "output": "tokens", "shape": shape or SHAPES[name], "dtype": dtype}
    return resolve(["lite:frames"])[0].model_copy(update=changes)


def make_clips(folder: Path, count: int) -> list[Clip]:
    clips = [Clip(f"clip-{number:03}", folder / f"{number:03}.avi") for number in range(count)]
    for clip in clips:
        clip.path.write_text(clip.clip_id)
    return clips


def fill(
    folder: Path, spec: FeatureSpec, clips: Sequence[Clip], cuts: Iterable[int], missing: Iterable[int] = ()
) -> FeatureStore:
    """Rows that tell their clip and their place in it. `missing` have no sound."""
    store = FeatureStore(folder, "set", spec)
    for chunk in np.split(np.arange(len(clips)), list(cuts)):
        result = ChunkResult(spec)
        for number in chunk.tolist():
            stamped = (clips[number], fingerprint(clips[number].path))
            if number in set(missing):
                result.no_audio.append(stamped)
            else:
                result.done.append(stamped)
                result.data.append((np.arange(spec.bytes_per_clip) % 7 + number)[: np.prod(spec.shape)])
        store.commit(result)
    return store


def index_of(batches: Iterable[FeatureBatch]) -> list[int]:
    return [position for batch in batches for position in batch.index.tolist()]


def assert_equal_to_loading(
    batches: Iterable[FeatureBatch], stores: dict[str, FeatureStore], clips: Sequence[Clip]
) -> None:
    loaded = {name: store.load(clips) for name, store in stores.items()}
    for batch in batches:
        assert batch.data.keys() == batch.present.keys() == stores.keys()
        for name, rows in batch.data.items():
            assert rows.dtype == stores[name].spec.dtype
            np.testing.assert_array_equal(rows, loaded[name].data[batch.index])
            np.testing.assert_array_equal(batch.present[name], loaded[name].present[batch.index])


@settings(max_examples=40, deadline=None)
@given(
    parts=st.integers(1, 9),
    batch_size=st.integers(1, 70),
    shards_per_window=st.integers(0, 9),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
    names=st.sampled_from([(), ("video",), ("images",), ("sound", "video"), ("images", "sound")]),
)
def test_every_clip_comes_once_with_its_rows(
    cached: Cached,
    parts: int,
    batch_size: int,
    shards_per_window: int,
    shuffle: bool,
    epoch: int,
    names: tuple[str, ...],
) -> None:
    window_bytes = {} if shards_per_window else {"window_bytes": 1}
    stream = cached.stream(
        *names, batch_size=batch_size, shards_per_window=shards_per_window, shuffle=shuffle, **window_bytes
    )
    every = []
    for part in range(parts):
        batches = list(stream.batches(epoch, part, parts))
        sizes = [len(batch.index) for batch in batches]
        assert all(size == batch_size for size in sizes[:-1])
        assert all(0 < size <= batch_size for size in sizes)
        assert index_of(batches) == stream.order(epoch, part, parts).tolist()
        assert_equal_to_loading(batches, {name: cached.stores[name] for name in names or SHAPES}, cached.clips)
        every += index_of(batches)
    absent_everywhere = set.intersection(*(MISSING[name] for name in names or SHAPES))
    assert sorted(every) == sorted(set(range(CLIPS)) - absent_everywhere) == stream.positions.tolist()


def test_unshuffled_clips_come_in_their_own_order(cached: Cached) -> None:
    clips = [cached.clips[number] for number in np.random.default_rng(0).permutation(CLIPS)]
    stream = FeatureStream(cached.stores, clips, 7, shuffle=False, window_bytes=3000)
    batches = list(stream.batches())
    assert index_of(batches) == [at for at, clip in enumerate(clips) if int(clip.clip_id[-3:]) not in NOWHERE]
    assert_equal_to_loading(batches, cached.stores, clips)


def test_some_of_the_clips_in_another_order(cached: Cached) -> None:
    clips = cached.clips[50:2:-3]
    batches = list(FeatureStream(cached.stores, clips, 4, window_bytes=3000).batches())
    assert_equal_to_loading(batches, cached.stores, clips)
    assert [at for at in range(len(clips)) if at not in index_of(batches)] == [(50 - 17) // 3]


def test_the_order_is_that_of_seed_and_epoch(cached: Cached) -> None:
    orders = {(seed, epoch): cached.stream(seed=seed).order(epoch).tolist() for seed in range(3) for epoch in range(3)}
    assert orders[1, 2] == cached.stream(seed=1).order(2).tolist() == index_of(cached.stream(seed=1).batches(2))
    assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_readers_are_dealt_the_shards_of_one_order(cached: Cached) -> None:
    stream = cached.stream("video", shards_per_window=1)
    whole = shards_in_turn(stream.order(5))
    assert len(whole) == 8
    for part in range(3):
        assert shards_in_turn(stream.order(5, part, 3)) == whole[part::3]


def test_clips_of_a_window_are_mixed_and_no_others(cached: Cached) -> None:
    order = cached.stream("sound", shards_per_window=3).order()
    first = order[: 3 * SHARD - 4]
    assert len(set(first // SHARD)) == 3
    assert (np.diff(first // SHARD) != 0).sum() > 5
    assert not set(order[3 * SHARD :] // SHARD) & set(first // SHARD)


def shards_in_turn(order: np.ndarray) -> list[int]:
    shards = (order // SHARD).tolist()
    return [shard for at, shard in enumerate(shards) if at == 0 or shards[at - 1] != shard]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each shard is read."""
    counted: Counter[Path] = Counter()

    def counting(shard: Any, *args: Any) -> Any:
        counted[shard.path] += 1
        return read_rows(shard, *args)

    monkeypatch.setattr(streaming, "read_rows", counting)
    return counted


@pytest.mark.parametrize("shuffle", [True, False])
def test_shards_that_are_cut_alike_are_read_once(cached: Cached, readings: Counter[Path], shuffle: bool) -> None:
    stream = cached.stream("video", "sound", shards_per_window=1, shuffle=shuffle)
    for epoch in range(5):
        assert len(index_of(stream.batches(epoch))) == CLIPS - len(NOWHERE)
    assert readings == dict.fromkeys([*cached.stores["video"].paths(), *cached.stores["sound"].paths()], 5)


def test_shards_that_are_cut_otherwise_are_read_once_in_order(cached: Cached, readings: Counter[Path]) -> None:
    list(cached.stream(shards_per_window=1, shuffle=False).batches())
    assert set(readings.values()) == {1}
    assert len(readings) == 8 + 8 + 4


def test_shards_of_a_small_feature_are_kept_while_there_is_room(cached: Cached, readings: Counter[Path]) -> None:
    wide = fill(cached.clips[0].path.parent, spec_of("wide", (40, 40)), cached.clips, range(SHARD, CLIPS, SHARD))
    stores = {"wide": wide, "images": cached.stores["images"]}
    window_bytes = 2 * SHARD * sum(store.spec.bytes_per_clip for store in stores.values())
    list(FeatureStream(stores, cached.clips, 7, window_bytes=window_bytes).batches())
    assert len(readings) == 8 + 4
    assert set(readings.values()) == {1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, list[Clip]]:
    folder = tmp_path_factory.mktemp("made")
    clips = make_clips(folder, 96)
    return fill(folder, spec_of("own", (128, ROW_BYTES // 256)), clips, range(8, 96, 8)), clips


@pytest.fixture
def own(made: tuple[FeatureStore, list[Clip]], tmp_path: Path) -> tuple[FeatureStore, list[Clip]]:
    """One feature of 96 clips, 32 KiB each, 8 clips a shard: 3 MiB. Tests may spoil it."""
    store, clips = made
    shutil.copytree(store.folder.parent, tmp_path / "set")
    return FeatureStore(tmp_path, "set", store.spec), clips


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("cut_otherwise", [False, True])
def test_memory_stays_within_what_is_promised(
    own: tuple[FeatureStore, list[Clip]], tmp_path: Path, shuffle: bool, every: int, cut_otherwise: bool
) -> None:
    store, clips = own
    stores = {"own": store}
    if cut_otherwise:
        stores["other"] = fill(tmp_path, spec_of("other", (ROW_BYTES // 2 - 1,)), clips, range(3, 96, 9))
    per_clip = sum(store.spec.bytes_per_clip for store in stores.values())
    stream = FeatureStream(stores, clips[::every], 4, shuffle=shuffle, window_bytes=16 * per_clip)
    assert stream.memory_bytes + SCRATCH_BYTES < 0.8 * 96 * per_clip
    tracemalloc.start()
    try:
        for batch in stream.batches():
            del batch
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < stream.memory_bytes + SCRATCH_BYTES


def test_whole_shards_are_read_to_where_they_are_taken_from(
    own: tuple[FeatureStore, list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = []

    def keeping(shard: Any, spec: FeatureSpec, out: np.ndarray) -> Any:
        targets.append(out)
        return read_rows(shard, spec, out)

    monkeypatch.setattr(streaming, "read_rows", keeping)
    list(FeatureStream({"own": own[0]}, own[1], 4, window_bytes=16 * ROW_BYTES).batches())
    windows = {id(target.base): target.base for target in targets}
    assert [window.shape[0] for window in windows.values()] == [16, 16]


def test_the_next_window_is_read_while_this_one_is_used(
    own: tuple[FeatureStore, list[Clip]], readings: Counter[Path]
) -> None:
    stream = FeatureStream({"own": own[0]}, own[1], 4, window_bytes=16 * ROW_BYTES)
    batches = stream.batches()
    next(batches)
    wait_until(lambda: readings.total() == 4)
    time.sleep(0.05)
    assert readings.total() == 4
    batches.close()


def wait_until(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.005)


def test_a_reader_that_stops_early_leaves_no_thread(
    own: tuple[FeatureStore, list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    stops: list[threading.Event] = []
    begun: list[Path] = []

    def event() -> threading.Event:
        stops.append(threading.Event())
        return stops[-1]

    def read(shard: Any, *args: Any) -> Any:
        begun.append(shard.path)
        if len(begun) > 6:  # of the second window, with which the reader is closed
            stops[0].wait()
        return read_rows(shard, *args)

    monkeypatch.setattr(streaming, "threading", SimpleNamespace(Event=event))
    monkeypatch.setattr(streaming, "read_rows", read)
    batches = FeatureStream({"own": own[0]}, own[1], 4, window_bytes=48 * ROW_BYTES).batches()
    next(batches)
    assert len(set(threading.enumerate()) - before) == 1
    batches.close()
    assert set(threading.enumerate()) <= before
    assert len(begun) <= 7


@pytest.mark.parametrize("window_bytes", [1, 2**30])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_damaged_shard_is_named(own: tuple[FeatureStore, list[Clip]], shuffle: bool, window_bytes: int) -> None:
    store, clips = own
    stream = FeatureStream({"own": store}, clips, 4, shuffle=shuffle, window_bytes=window_bytes)
    path = store.paths()[5]
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    before = set(threading.enumerate())
    with pytest.raises(DamagedShard, match=f"{path.name} is damaged") as caught:
        list(stream.batches())
    assert "\n" not in str(caught.value)
    assert set(threading.enumerate()) <= before


def test_a_shard_that_is_removed_meanwhile_is_named(own: tuple[FeatureStore, list[Clip]]) -> None:
    store, clips = own
    batches = FeatureStream({"own": store}, clips, 4, window_bytes=8 * ROW_BYTES).batches()
    next(batches)
    time.sleep(0.05)
    for path in store.paths():
        path.unlink()
    with pytest.raises(UsageError, match=r"shard-.*can no longer be read \(No such file") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def rows_in_child(stream: FeatureStream, results: Any) -> None:
    results.put([(batch.index, batch.data["video"]) for batch in stream.batches(1)])


@pytest.fixture
def half_read(cached: Cached) -> Iterator[FeatureStream]:
    """A stream whose thread and batches are alive in this process."""
    stream = cached.stream(shards_per_window=1)
    batches = stream.batches()
    next(batches)
    yield stream
    assert len(index_of(batches)) == CLIPS - len(NOWHERE) - 7


def test_a_fork_after_reading_has_begun_gives_right_rows(half_read: FeatureStream) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=rows_in_child, args=(half_read, results))
    child.start()
    found = results.get()
    child.join()
    assert child.exitcode == 0
    assert_same(found, half_read)


def test_a_fresh_process_gives_right_rows(half_read: FeatureStream, tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(pickle.dumps(half_read))
    script = """
import pickle, sys
stream = pickle.load(open(sys.argv[1], "rb"))
found = [(batch.index, batch.data["video"]) for batch in stream.batches(1)]
pickle.dump(found, open(sys.argv[2], "wb"))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "stream", tmp_path / "found"], check=True)
    assert_same(pickle.loads((tmp_path / "found").read_bytes()), half_read)


def assert_same(found: list[tuple[np.ndarray, np.ndarray]], stream: FeatureStream) -> None:
    for (index, rows), batch in zip(found, stream.batches(1), strict=True):
        np.testing.assert_array_equal(index, batch.index)
        np.testing.assert_array_equal(rows, batch.data["video"])


def test_a_feature_is_named_by_its_place_as_well(cached: Cached) -> None:
    store = cached.stores["sound"]
    place = (store.folder.parents[1], "set", store.spec)
    stream = FeatureStream({"sound": place}, cached.clips, 7)
    assert_equal_to_loading(stream.batches(), {"sound": store}, cached.clips)
    assert stream.specs == {"sound": store.spec}
    assert np.flatnonzero(~stream.present["sound"]).tolist() == sorted(MISSING["sound"])


def test_clips_that_have_no_feature_are_a_mistake(cached: Cached, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none of the 60 clips .*\(video\): run make extract"):
        FeatureStream({"video": (tmp_path, "set", spec_of("video"))}, cached.clips, 7)
    with pytest.raises(UsageError, match="none of the 2 clips"):
        FeatureStream(cached.stores, [cached.clips[number] for number in NOWHERE], 7)


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"window_bytes": 0}])
def test_sizes_below_one_are_a_mistake(cached: Cached, sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        cached.stream(**sizes)
