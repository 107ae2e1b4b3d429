"""Loading a pooled feature of 4,000 clips, warm file cache: the cache, verified, against one .npy file per clip.

The cache is written through its own door, 128 clips a shard. Each load starts from a fresh FeatureStore, so it finds
its shards, checks their hashes, and checks that every clip's media file is still the one the feature came from.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pairs import compare, write

from features.cache import ChunkResult, FeatureStore, fingerprint
from features.clips import Clip
from features.requests import resolve
from features.spec import FeatureSpec

CLIPS = 4_000
CLIPS_PER_SHARD = 128
COLLECTION = "bench"

Rows = NDArray[np.float16]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (spec,) = resolve(["lite:chromagram"])
        clips = make_clips(folder / "media")
        rows = np.random.default_rng(0).normal(size=(CLIPS, *spec.shape)).astype(spec.dtype)
        fill_cache(folder, spec, clips, rows)
        fill_npy(folder / "npy", clips, rows)
        for load in (load_cache(folder, spec, clips), load_npy(folder / "npy", clips)):
            np.testing.assert_array_equal(load, rows)
        figure = compare(
            "cache_load_speedup_over_npy",
            lambda: load_cache(folder, spec, clips),
            lambda: load_npy(folder / "npy", clips),
            speedup=True,
        )
    write("cache", [figure])


def load_cache(cache: Path, spec: FeatureSpec, clips: Sequence[Clip]) -> NDArray[np.generic]:
    return FeatureStore(cache, COLLECTION, spec).load(clips).data


def load_npy(folder: Path, clips: Sequence[Clip]) -> NDArray[np.generic]:
    return np.stack([np.load(folder / f"{clip.clip_id}.npy") for clip in clips])


def make_clips(folder: Path) -> list[Clip]:
    """Clips whose media files are a few bytes: what is in them is never read, that they are there is."""
    folder.mkdir()
    clips = [Clip(f"clip_{number:05d}", folder / f"clip_{number:05d}.avi") for number in range(CLIPS)]
    for clip in clips:
        clip.path.write_text(clip.clip_id)
    return clips


def fill_cache(cache: Path, spec: FeatureSpec, clips: Sequence[Clip], rows: Rows) -> None:
    store = FeatureStore(cache, COLLECTION, spec)
    for first in range(0, len(clips), CLIPS_PER_SHARD):
        chunk = slice(first, first + CLIPS_PER_SHARD)
        done = [(clip, fingerprint(clip.path)) for clip in clips[chunk]]
        store.commit(ChunkResult(spec=spec, done=done, data=list(rows[chunk])))


def fill_npy(folder: Path, clips: Sequence[Clip], rows: Rows) -> None:
    folder.mkdir()
    for clip, row in zip(clips, rows, strict=True):
        np.save(folder / f"{clip.clip_id}.npy", row)


if __name__ == "__main__":
    main()
