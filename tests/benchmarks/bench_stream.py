"""One epoch of a token feature, (197, 768) float16 for each of 1,200 clips: shuffled, batches of 32, warm file cache.

The cache is written through its own door, 64 clips a shard, and read in windows of 64 MiB, so that several follow each
other as they do in a data set that is larger than memory. Against it: the same files read from end to end into one
buffer, nothing checked and nothing shuffled; and a map-style Dataset over one .npy file per clip with
DataLoader(shuffle=True), without workers and with two. On both sides workers are started before, torch has one thread
and malloc keeps its buffers: stacking batches with several threads, or in memory that is faulted in anew, takes the
other side up to ten times as long where cores are shared.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pairs import Figure, compare, write
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avfuse.features.cache import ChunkResult, FeatureStore, fingerprint
from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.malloc import keep_large_buffers
from avfuse.features.spec import FeatureSpec
from avfuse.stages.fuse.streaming import stream_loader

CLIPS = 1200
CLIPS_PER_SHARD = 64
BATCH = 32
WINDOW_BYTES = 64 * 2**20
SHAPE = (197, 768)
COLLECTION = "bench"

Rows = NDArray[np.float16]


def main() -> None:
    torch.set_num_threads(1)
    keep_large_buffers()
    with tempfile.TemporaryDirectory() as folder:
        write("stream", figures(Path(folder)))


def figures(folder: Path) -> Iterator[Figure]:
    spec = resolve(["lite:frames"])[0].model_copy(update={"name": "tokens", "output": "tokens", "shape": SHAPE})
    clips = make_clips(folder / "media")
    rows = np.random.default_rng(0).normal(size=(CLIPS, *SHAPE)).astype(np.float16)
    shards = fill_cache(folder, spec, clips, rows)
    stream = FeatureStream({"video": (folder, COLLECTION, spec)}, clips, BATCH, window_bytes=WINDOW_BYTES)
    npy = NpyFiles(fill_npy(folder / "npy", clips, rows))
    check(stream, npy, rows)
    # Page-aligned: reading into memory that is not can take four times as long.
    buffer = memoryview(mmap.mmap(-1, max(path.stat().st_size for path in shards)))
    yield compare(
        "stream_rate_over_raw_read_rate",
        partial(epoch, stream_loader(stream)),
        partial(read_raw, shards, buffer),
        speedup=True,
    )
    for workers, ending in ((0, ""), (2, "_2_workers")):
        ours = stream_loader(stream, workers, persistent_workers=True)
        theirs = DataLoader(npy, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        name = f"stream_speedup_over_npy_dataset{ending}"
        yield compare(name, partial(epoch, ours), partial(epoch, theirs), speedup=True)


def epoch(batches: Iterable[object]) -> int:
    return sum(1 for _ in batches)


def read_raw(paths: Sequence[Path], buffer: memoryview) -> int:
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


class NpyFiles(Dataset[tuple[Tensor, int]]):
    """One file per clip, and the clip's position."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(np.load(self.paths[index])), index


def check(stream: FeatureStream, npy: NpyFiles, rows: Rows) -> None:
    """Both give every row once."""
    seen = [(batch.tokens["video"], batch.index) for batch in stream_loader(stream)]
    for batches in (seen, list(DataLoader(npy, BATCH, shuffle=True))):
        index = np.concatenate([index.numpy() for _, index in batches])
        assert sorted(index) == list(range(CLIPS))
        for tokens, at in batches:
            np.testing.assert_array_equal(tokens.numpy(), rows[at.numpy()])


def make_clips(folder: Path) -> list[Clip]:
    folder.mkdir()
    clips = [Clip(f"clip_{number:03d}", folder / f"clip_{number:03d}.avi") for number in range(CLIPS)]
    for clip in clips:
        clip.path.write_text(clip.clip_id)
    return clips


def fill_cache(cache: Path, spec: FeatureSpec, clips: Sequence[Clip], rows: Rows) -> list[Path]:
    store = FeatureStore(cache, COLLECTION, spec)
    for first in range(0, len(clips), CLIPS_PER_SHARD):
        chunk = slice(first, first + CLIPS_PER_SHARD)
        done = [(clip, fingerprint(clip.path)) for clip in clips[chunk]]
        store.commit(ChunkResult(spec=spec, done=done, data=list(rows[chunk])))
    return store.paths()


def fill_npy(folder: Path, clips: Sequence[Clip], rows: Rows) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{clip.clip_id}.npy" for clip in clips]
    for path, row in zip(paths, rows, strict=True):
        np.save(path, row)
    return paths


if __name__ == "__main__":
    main()
