"""Clips whose media are a few bytes, and made-up rows for them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avfuse.features.cache import ChunkResult, Failure, FeatureStore, fingerprint
from avfuse.features.cache.maintenance.verify_repair import Finding, verify
from avfuse.features.clips import Clip
from avfuse.features.spec import FeatureSpec
from avfuse.stages.extract.plan import plan_extraction


def make_clips(folder: Path, count: int = 5) -> list[Clip]:
    """clip-0, clip-1, ...: files that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index}.avi").write_bytes(bytes([index % 256]) * 100 + str(index).encode())
    return [Clip(f"clip-{index}", folder / f"{index}.avi") for index in range(count)]


def result_of(
    spec: FeatureSpec,
    done: Sequence[Clip] = (),
    no_audio: Sequence[Clip] = (),
    failed: Sequence[Clip] = (),
    *,
    value: float = 0.0,
    attempts: int = 1,
) -> ChunkResult:
    """A chunk's rows: those of `done` hold value, value + 1, ..."""
    dtype = np.uint8 if spec.dtype == "uint8" else np.float32
    return ChunkResult(
        spec,
        done=[(clip, fingerprint(clip.path)) for clip in done],
        data=[np.full(spec.shape, value + number, dtype) for number in range(len(done))],
        no_audio=[(clip, fingerprint(clip.path)) for clip in no_audio],
        failed=[(clip, fingerprint(clip.path), Failure("decode", "broken: ü", attempts)) for clip in failed],
    )


def touch(path: Path, seconds_ago: float) -> None:
    status = os.stat(path)
    times = status.st_atime_ns, status.st_mtime_ns - round(seconds_ago * 1e9)
    os.utime(path, ns=times)


def findings(cache: Path, repair: bool = False) -> list[Finding]:
    """Verify the collection `set`."""
    return list(verify(cache, "set", repair=repair))


def planned_ids(cache: Path, spec: FeatureSpec, clips: list[Clip]) -> list[str]:
    """The ids of the clips that an extraction into the collection `set` would process."""
    return [job.clip.clip_id for job in plan_extraction([FeatureStore(cache, "set", spec)], clips).jobs]
