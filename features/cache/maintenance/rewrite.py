"""Removing rows from shards, which never change: a new shard is committed, then the old one removed.

In between a clip is stored twice, which is legal. Only one process at a time may do this to a collection, or each of
two could drop a row because the other has it: `Claims.exclusive_maintenance` ensures that. Readers retry if a listed
shard is gone; running extractions only add shards.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avfuse.features.cache.fingerprint import Fingerprint
from avfuse.features.cache.shard_reader import Shard, read_rows, read_software
from avfuse.features.cache.shard_writer import ChunkResult, write_shard
from avfuse.features.cache.store import failure_of
from avfuse.features.clips import Clip
from avfuse.features.spec import FeatureSpec

SET_ASIDE = "set-aside"


def rows_in(shard: Shard) -> int:
    """The number of a shard's rows: features, absences and failures."""
    return len(shard.clip_id) + len(shard.no_audio) + len(shard.failed)


def commit_part(shard: Shard, spec: FeatureSpec, kept: NDArray[np.bool_]) -> Path | None:
    """Write some rows of a shard as a new shard beside it, with the old one's software versions.

    kept: (n + m + k,), a mask of its features, absences and failures, in the order of Rows. Returns None if no row is
    kept. Verifies the shard: raises DamagedShard.
    """
    if not kept.any():
        return None
    features, before_failed = len(shard.clip_id), len(shard.clip_id) + len(shard.no_audio)
    done = np.flatnonzero(kept[:features])
    result = ChunkResult(spec, software=read_software(shard.path))
    result.data = list(read_rows(shard, spec)[done]) if len(done) else []
    result.done = [_clip(shard.clip_id[row], shard.media[row]) for row in done]
    result.no_audio = [_clip(entry["clip_id"], entry) for entry in shard.no_audio[kept[features:before_failed]]]
    failed = np.flatnonzero(kept[before_failed:]).tolist()
    result.failed = [
        (*_clip(shard.failed[row]["clip_id"], shard.failed[row]), failure_of(shard, row)) for row in failed
    ]
    return write_shard(shard.path.parent, result)


def set_aside(path: Path, reason: str) -> Path:
    """Move a file where readers do not look, beside a text file that states the reason. Returns its new path."""
    folder = path.parent / SET_ASIDE
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    target.with_name(f"{target.name}.reason.txt").write_text(f"{path}: {reason}\n")
    path.rename(target)
    return target


def _clip(clip_id: np.bytes_, media: np.void) -> tuple[Clip, Fingerprint]:
    """A row's clip, without the path, which shards do not store, and the fingerprint of its media file."""
    start, end = (None if np.isnan(media[column]) else float(media[column]) for column in ("start", "end"))
    stored = Fingerprint(int(media["size"]), int(media["mtime_ns"]), media["digest"].tobytes())
    return Clip(clip_id.decode(), Path(), start, end), stored
