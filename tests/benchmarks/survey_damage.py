"""How often noise over a file's bytes is noticed: `make survey-damage CLIPS=FOLDER`.

Of each clip, copies are made with 1, 4 or 64 bytes at a random place replaced by noise. A copy is harmless when every
frame is as before; noticed when `decode` refuses it or says that it is damaged, and every frame it gives is one of the
undamaged clip; else it is unnoticed.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from avfuse.features.errors import ClipError
from avfuse.features.media import MEDIA_SUFFIXES, Frames, decode

TRIES = 25


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: make survey-damage CLIPS=FOLDER")
    generator = np.random.default_rng(0)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(path for path in Path(sys.argv[1]).iterdir() if path.suffix.lower() in MEDIA_SUFFIXES):
            frames = decode(path, "uniform:1", audio=False).frames
            if frames is None:
                print(f"{path.name} is left out: it has no frames, or is damaged already", file=sys.stderr)
                continue
            everything = f"strided:{frames.available}x1"
            whole = frames_of(path, everything)
            counts: Counter[str] = Counter()
            for _ in range(TRIES):
                counts[judge(whole, with_noise(path, Path(folder), generator), everything)] += 1
            print(path.name, dict(counts), flush=True)
            total += counts
    print(f"{total['noticed']} noticed, {total['unnoticed']} unnoticed, {total['harmless']} harmless")


def frames_of(path: Path, everything: str) -> Frames:
    """Raises ClipError when there are none."""
    media = decode(path, everything, audio=False)
    if media.frames is None:
        raise media.frames_error or ClipError("decode", "no frames")
    return media.frames


def with_noise(path: Path, folder: Path, generator: np.random.Generator) -> Path:
    content = bytearray(path.read_bytes())
    size = int(generator.choice([1, 4, 64]))
    at = int(len(content) * generator.uniform(0.05, 0.95))
    content[at : at + size] = generator.integers(0, 256, size, dtype=np.uint8).tobytes()
    damaged = folder / f"damaged{path.suffix}"
    damaged.write_bytes(content)
    return damaged


def judge(whole: Frames, damaged: Path, everything: str) -> str:
    try:
        media = decode(damaged, everything, audio=False)
    except ClipError:
        return "noticed"
    if media.frames is None:
        return "noticed"
    there = media.frames.available
    same = there <= whole.available and np.array_equal(media.frames.pixels[:there], whole.pixels[:there])
    if same and there == whole.available:
        return "harmless"
    return "noticed" if same and any("damaged" in note or "cut short" in note for note in media.notes) else "unnoticed"


if __name__ == "__main__":
    main()
