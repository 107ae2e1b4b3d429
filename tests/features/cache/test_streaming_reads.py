"""A stream reads shards once where it can, in bounded memory, and says what went wrong."""

import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streamed import (
    CLIPS,
    NOWHERE,
    ROW_BYTES,
    SCRATCH_BYTES,
    SHARD,
    Cached,
    fill,
    index_of,
    make_clips,
    spec_of,
)

from avfuse.features.cache import DamagedShard, FeatureStore, streaming
from avfuse.features.cache.shard_reader import read_rows
from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec


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
    child_rows = results.get()
    child.join()
    assert child.exitcode == 0
    assert_same(child_rows, half_read)


def test_a_fresh_process_gives_right_rows(half_read: FeatureStream, tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(pickle.dumps(half_read))
    script = """
import pickle, sys
stream = pickle.load(open(sys.argv[1], "rb"))
child_rows = [(batch.index, batch.data["video"]) for batch in stream.batches(1)]
pickle.dump(child_rows, open(sys.argv[2], "wb"))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "stream", tmp_path / "found"], check=True)
    assert_same(pickle.loads((tmp_path / "found").read_bytes()), half_read)


def assert_same(child_rows: list[tuple[np.ndarray, np.ndarray]], stream: FeatureStream) -> None:
    for (index, rows), batch in zip(child_rows, stream.batches(1), strict=True):
        np.testing.assert_array_equal(index, batch.index)
        np.testing.assert_array_equal(rows, batch.data["video"])
