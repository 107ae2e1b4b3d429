"""Loading a pooled feature of 20,000 clips (1280 numbers each, float16) with a warm file cache, verified.

The cache is written through its own door, 1,024 clips a shard as extraction does. Each load starts from nothing, so it
finds its shards, reads their tables and checks every byte against the hash in the file's name. The rivals: reading the
same files into one buffer and looking at nothing, and one .npy file per clip. A second pair of figures adds what stage
two asks besides: whether every clip's media file is still the one that the feature came from.

`plan_200k_seconds` is a time, not a ratio: planning 200,000 clips, 1,000 of them missing, features of 1 KB. Listing and
verifying the same cache is compared with one of 50,000 clips: four times as many should take four times as long,
and no more memory than their tables.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pairs import Figure, compare, write

from avfuse import features
from avfuse.features.cache import ChunkResult, ClipQuery, FeatureStore, fingerprint
from avfuse.features.cache.catalog import cached_features
from avfuse.features.cache.maintenance.summary import feature_status
from avfuse.features.cache.maintenance.verify_repair import verify
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec
from avfuse.stages.extract.plan import CHUNK_CLIPS, plan_extraction

CLIPS = 20_000
PLANNED_CLIPS, MISSING_CLIPS, TIMES = 200_000, 1_000, 7
COLLECTION = "bench"

Rows = NDArray[np.float16]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        figures = load_figures(Path(name))
    with tempfile.TemporaryDirectory() as name:
        figures += size_figures(Path(name))
    write("cache", figures)


def load_figures(folder: Path) -> list[Figure]:
    (spec,) = resolve(["lite:chromagram"])
    clips = make_clips(folder / "media", CLIPS)
    rows = np.random.default_rng(0).normal(size=(CLIPS, *spec.shape)).astype(spec.dtype)
    fill_cache(folder, spec, clips, rows)
    fill_npy(folder / "npy", clips, rows)
    shards = FeatureStore(folder, COLLECTION, spec).paths()

    def load() -> NDArray[np.generic]:
        return features.load(COLLECTION, spec.name, folder).data

    def load_checked() -> NDArray[np.generic]:
        return FeatureStore(folder, COLLECTION, spec).load(clips).data

    def load_npy() -> NDArray[np.generic]:
        return np.stack([np.load(folder / "npy" / f"{clip.clip_id}.npy") for clip in clips])

    def read_raw() -> int:
        return read_files(shards)

    for way in (load, load_checked, load_npy):
        np.testing.assert_array_equal(way(), rows)
    return [
        compare("cache_load_rate_over_raw_read_rate", load, read_raw, speedup=True),
        compare("cache_load_speedup_over_npy", load, load_npy, speedup=True),
        compare("cache_load_with_media_rate_over_raw_read_rate", load_checked, read_raw, speedup=True),
        compare("cache_load_with_media_speedup_over_npy", load_checked, load_npy, speedup=True),
    ]


def read_files(paths: Sequence[Path]) -> int:
    """All bytes of some files, one after the other, into one new buffer."""
    buffer = memoryview(bytearray(0)) if not paths else memoryview(np.empty(sum(p.stat().st_size for p in paths), "u1"))
    at = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            at += file.readinto(buffer[at:])
    assert at == len(buffer)
    return at


def size_figures(folder: Path) -> list[Figure]:
    """Seconds of planning, imports done, from a list of clips to the jobs that are left; how listing and verifying grow
    with the number of clips; the most memory that verifying takes beyond what was there."""
    spec = resolve(["lite:chromagram"])[0].model_copy(update={"shape": (512,)})
    clips = make_clips(folder / "media", PLANNED_CLIPS)
    rows = np.random.default_rng(0).normal(size=(PLANNED_CLIPS - MISSING_CLIPS, 512)).astype(spec.dtype)
    few = slice(PLANNED_CLIPS // 4)
    fill_cache(folder / "large", spec, clips[: len(rows)], rows)
    fill_cache(folder / "small", spec, clips[few], rows[few])
    del rows

    def plan() -> int:
        return len(plan_extraction([FeatureStore(folder / "large", COLLECTION, spec)], ClipQuery(clips)).jobs)

    def list_it(cache: Path, asked: Sequence[Clip]) -> None:
        for feature in cached_features(cache, COLLECTION):
            feature_status(feature, {"all": ClipQuery(asked)})

    def prove(cache: Path) -> None:
        assert not list(verify(cache, COLLECTION))

    assert plan() == MISSING_CLIPS
    small, large = folder / "small", folder / "large"
    return [
        seconds_figure("plan_200k_seconds", plan),
        compare("list_time_200k_over_50k", lambda: list_it(large, clips), lambda: list_it(small, clips[few])),
        compare("verify_time_200k_over_50k", lambda: prove(large), lambda: prove(small)),
        memory_figure("verify_memory_50k_mib", lambda: prove(small)),
        memory_figure("verify_memory_200k_mib", lambda: prove(large)),
    ]


def seconds_figure(name: str, work: Callable[[], object]) -> Figure:
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    return Figure(name, median, "s", low, high, TIMES)


def memory_figure(name: str, work: Callable[[], object]) -> Figure:
    """The most that Python and numpy hold at a time."""
    tracemalloc.start()
    work()
    mib = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return Figure(name, mib, "MiB", mib, mib, 1)


def make_clips(folder: Path, count: int) -> list[Clip]:
    """Clips whose media files are a few bytes: what is in them is never read, that they are there is."""
    clips = []
    for number in range(count):
        part = folder / f"{number // 1000:03d}"
        part.mkdir(parents=True, exist_ok=True)
        clips.append(Clip(f"clip_{number:06d}", part / f"clip_{number:06d}.avi"))
        clips[-1].path.write_text(clips[-1].clip_id)
    return clips


def fill_cache(cache: Path, spec: FeatureSpec, clips: Sequence[Clip], rows: Rows) -> None:
    store = FeatureStore(cache, COLLECTION, spec)
    for first in range(0, len(clips), CHUNK_CLIPS):
        chunk = slice(first, first + CHUNK_CLIPS)
        done = [(clip, fingerprint(clip.path)) for clip in clips[chunk]]
        store.commit(ChunkResult(spec=spec, done=done, data=list(rows[chunk])))


def fill_npy(folder: Path, clips: Sequence[Clip], rows: Rows) -> None:
    folder.mkdir()
    for clip, row in zip(clips, rows, strict=True):
        np.save(folder / f"{clip.clip_id}.npy", row)


if __name__ == "__main__":
    main()
