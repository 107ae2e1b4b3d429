"""Taking rows out of shards, which never change: a new shard is committed first, then the old one goes.

Between the two a clip is there twice, which is legal. Only one process may do this to a collection at a time, or each
of two could drop a row because the other has it: `Claims.exclusive_maintenance` sees to that. Readers that listed a shard before it
went look again; a running extraction only adds shards.
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
    """All its rows, of clips with the feature, without sound, and failed."""
    return len(shard.clip_id) + len(shard.no_audio) + len(shard.failed)


def commit_part(shard: Shard, spec: FeatureSpec, kept: NDArray[np.bool_]) -> Path | None:
    """Write some rows of a shard as a new one beside it, with the versions it was computed with. Returns None where no
    row is kept.

    kept (n + m + k,): which of its features, absences and failures, in the order of Rows. The shard is verified on the
    way: raises DamagedShard.
    """
    if not kept.any():
        return None
    features, others = len(shard.clip_id), len(shard.clip_id) + len(shard.no_audio)
    done = np.flatnonzero(kept[:features])
    result = ChunkResult(spec, software=read_software(shard.path))
    result.data = list(read_rows(shard, spec)[done]) if len(done) else []
    result.done = [_clip(shard.clip_id[row], shard.media[row]) for row in done]
    result.no_audio = [_clip(entry["clip_id"], entry) for entry in shard.no_audio[kept[features:others]]]
    failed = np.flatnonzero(kept[others:]).tolist()
    result.failed = [
        (*_clip(shard.failed[row]["clip_id"], shard.failed[row]), failure_of(shard, row)) for row in failed
    ]
    return write_shard(shard.path.parent, result)


def set_aside(path: Path, reason: str) -> Path:
    """Move a file out of sight of everything that reads shards, with a text beside it that says why. Returns where it
    is now."""
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
    """A row's clip, whose path a shard does not hold, and its file as it was."""
    start, end = (None if np.isnan(media[side]) else float(media[side]) for side in ("start", "end"))
    print_ = Fingerprint(int(media["size"]), int(media["mtime_ns"]), media["digest"].tobytes())
    return Clip(clip_id.decode(), Path(), start, end), print_
