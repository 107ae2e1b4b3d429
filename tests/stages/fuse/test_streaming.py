"""A DataLoader over a stream gives the same clips with the same rows, however many processes read for it."""

import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avfuse.features.cache import ChunkResult, FeatureStore, fingerprint
from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.streaming import StreamLoader, TensorBatch, stream_loader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

CLIPS = 50
SHARD = 6
SHAPES = {"video": (3, 4), "audio": (5,)}
NO_AUDIO = {7, 8, 30}


@dataclass(frozen=True)
class Cached:
    clips: list[Clip]
    stores: dict[str, FeatureStore]

    def stream(self, **options: Any) -> FeatureStream:
        return FeatureStream(self.stores, self.clips, 4, **{"window_bytes": 2 * SHARD * 34, **options})


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Cached:
    folder = tmp_path_factory.mktemp("cached")
    clips = [Clip(f"clip-{number:02}", folder / "gone" / f"{number}.avi") for number in range(CLIPS)]
    stores = {}
    for name, shape in SHAPES.items():
        changes = {"name": name, "output": "tokens", "shape": shape}
        stores[name] = FeatureStore(folder, "set", resolve(["lite:frames"])[0].model_copy(update=changes))
        for chunk in np.split(np.arange(CLIPS), range(SHARD, CLIPS, SHARD)):
            result = ChunkResult(stores[name].spec)
            for number in chunk.tolist():
                stamped = (clips[number], fingerprint(clips[number].path))
                if name == "audio" and number in NO_AUDIO:
                    result.no_audio.append(stamped)
                else:
                    result.done.append(stamped)
                    result.data.append(np.arange(np.prod(shape)) + number)
            stores[name].commit(result)
    return Cached(clips, stores)


@pytest.fixture
def to_spoil(cached: Cached, tmp_path: Path) -> Cached:
    """The same in a folder of its own."""
    shutil.copytree(cached.stores["video"].folder.parent, tmp_path / "set")
    stores = {name: FeatureStore(tmp_path, "set", store.spec) for name, store in cached.stores.items()}
    return Cached(cached.clips, stores)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def index_of(batches: Iterable[TensorBatch]) -> list[int]:
    return [position for batch in batches for position in batch.index.tolist()]


def assert_every_clip_once(loader: StreamLoader, cached: Cached) -> list[int]:
    loaded = {name: store.load(cached.clips) for name, store in cached.stores.items()}
    batches = list(loader)
    for batch in batches:
        assert batch.index.dtype == torch.int64
        for name, tokens in batch.tokens.items():
            assert tokens.dtype == torch.float16
            assert batch.present[name].dtype == torch.bool
            np.testing.assert_array_equal(tokens.numpy(), loaded[name].data[batch.index.numpy()])
            np.testing.assert_array_equal(batch.present[name].numpy(), loaded[name].present[batch.index.numpy()])
    order = index_of(batches)
    assert sorted(order) == list(range(CLIPS))
    return order


@pytest.mark.parametrize(
    ("workers", "start_method"),
    [(0, None), (1, "fork"), (2, "fork"), (3, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)],
)
def test_every_clip_comes_once_from_any_number_of_workers(cached: Cached, workers: int, start_method: Any) -> None:
    first = assert_every_clip_once(stream_loader(cached.stream(), workers, start_method=start_method), cached)
    if start_method != "spawn":
        again = assert_every_clip_once(stream_loader(cached.stream(), workers, start_method=start_method), cached)
        assert first == again != list(range(CLIPS))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_unshuffled_clips_come_in_order_from_any_number_of_workers(cached: Cached, workers: int) -> None:
    loader = stream_loader(cached.stream(shuffle=False), workers)
    assert assert_every_clip_once(loader, cached) == list(range(CLIPS))


def test_unshuffled_clips_come_in_order_from_a_loader_of_ones_own(cached: Cached) -> None:
    dataset = stream_loader(cached.stream(shuffle=False)).dataset
    assert assert_every_clip_once(StreamLoader(dataset, batch_size=None, num_workers=3), cached) == list(range(CLIPS))


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_another_epoch_is_another_order(cached: Cached, workers: int, persistent: bool) -> None:
    loader = stream_loader(cached.stream(), workers, persistent_workers=persistent)
    orders = []
    for epoch in (0, 1, 2, 1):
        loader.set_epoch(epoch)
        orders.append(assert_every_clip_once(loader, cached))
    assert orders[1] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_torchs_random_numbers_stay_as_they_are(cached: Cached, workers: int) -> None:
    before = torch.get_rng_state()
    list(stream_loader(cached.stream(), workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_forked_in_the_middle_of_reading_give_right_rows(cached: Cached) -> None:
    stream = cached.stream(window_bytes=SHARD * 34)
    batches = stream.batches()
    next(batches)
    assert_every_clip_once(stream_loader(stream, 2, start_method="fork"), cached)
    assert len(list(batches)) > 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("name", list(SHAPES))
def test_a_damaged_shard_is_one_line(to_spoil: Cached, workers: int, shuffle: bool, name: str) -> None:
    stream = to_spoil.stream(shuffle=shuffle)
    path = to_spoil.stores[name].paths()[3]
    damage(path)
    with pytest.raises(UsageError, match=f"{path.name} is damaged") as caught:
        list(stream_loader(stream, workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loader_goes_on_after_trouble(to_spoil: Cached, persistent: bool) -> None:
    loader = stream_loader(to_spoil.stream(), 2, persistent_workers=persistent)
    path = to_spoil.stores["video"].paths()[3]
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UsageError, match=f"{path.name} can no longer be read"):
        list(loader)
    path.write_bytes(content)
    assert_every_clip_once(loader, to_spoil)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_consumer_that_stops_early_leaves_nothing_running(cached: Cached, workers: int) -> None:
    threads, processes = set(threading.enumerate()), set(multiprocessing.active_children())
    for batch in stream_loader(cached.stream(), workers):
        assert len(batch.index) == 4
        break
    assert set(multiprocessing.active_children()) <= processes
    wait_until(lambda: set(threading.enumerate()) <= threads)  # older ones may end meanwhile


def test_trouble_leaves_nothing_running(to_spoil: Cached) -> None:
    threads, processes = set(threading.enumerate()), set(multiprocessing.active_children())
    damage(to_spoil.stores["video"].paths()[3])
    with pytest.raises(UsageError) as caught:
        list(stream_loader(to_spoil.stream(), 2))
    assert set(multiprocessing.active_children()) <= processes
    wait_until(lambda: set(threading.enumerate()) <= threads)  # older ones may end meanwhile
    assert caught.value.__traceback__ is not None


def wait_until(happened: Callable[[], bool]) -> None:
    """torch does not wait for the threads of its queues."""
    while not happened():
        time.sleep(0.005)


def test_what_the_loader_is_told_reaches_it(cached: Cached) -> None:
    loader = stream_loader(cached.stream(), 2, pin_memory=True, prefetch_batches=3, start_method="spawn")
    assert loader.pin_memory
    assert loader.prefetch_factor == 3
    assert loader.multiprocessing_context.get_start_method() == "spawn"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_pinned(cached: Cached, workers: int) -> None:
    for batch in stream_loader(cached.stream(), workers, pin_memory=True):
        assert batch.index.is_pinned()
        assert all(tensor.is_pinned() for tensor in [*batch.tokens.values(), *batch.present.values()])
        assert batch.to("cuda").tokens["video"].is_cuda


def test_a_batch_moves_as_a_whole(cached: Cached) -> None:
    batch = next(iter(stream_loader(cached.stream()))).to("meta")
    tensors = [*batch.tokens.values(), *batch.present.values(), batch.index]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 5
