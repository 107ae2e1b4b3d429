"""What docs/cache-format.md tells a newcomer works as it stands there."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from checkout import ROOT

from avfuse.features.cache import ChunkResult, Failure, FeatureStore, fingerprint
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve

PAGE = (ROOT / "docs" / "cache-format.md").read_text()
PROGRAM = PAGE.partition("```python\n")[2].partition("```")[0]


def test_ten_lines_of_h5py_read_a_shard(tmp_path: Path) -> None:
    spec = resolve(["lite:mfcc"])[0].model_copy(update={"shape": (3,)})
    clips = [Clip(f"clip-{index}", tmp_path / f"{index}.avi") for index in range(4)]
    for clip in clips:
        clip.path.write_text(clip.clip_id)
    prints = [fingerprint(clip.path) for clip in clips]
    result = ChunkResult(spec, done=list(zip(clips[:2], prints[:2], strict=True)))
    result.data = [np.array([1, 2, 3], np.float16), np.array([4, 5, 6], np.float16)]
    result.no_audio = [(clips[2], prints[2])]
    result.failed = [(clips[3], prints[3], Failure("decode", "broken"))]
    shard = FeatureStore(tmp_path, "set", spec).commit(result)
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) <= 10
    output = subprocess.run([sys.executable, "-c", PROGRAM, shard], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[0] == "lite:mfcc float16 (2, 3)"
    for part in ("'clip-0': array([1., 2., 3.]", "'clip-1': array([4., 5., 6.]", "{'clip-3': 'broken'} ['clip-2']"):
        assert part in output


def test_the_header_is_a_line_that_anybody_can_read(tmp_path: Path) -> None:
    spec = resolve(["lite:mfcc"])[0]
    shard = FeatureStore(tmp_path, "set", spec).commit(ChunkResult(spec, no_audio=[]))
    first, second = shard.read_bytes().split(b"\n")[:2]
    assert first.startswith(b"avfuse shard 2 ")
    assert spec.key.encode() in second
