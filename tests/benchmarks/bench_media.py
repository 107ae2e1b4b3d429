"""Frames only, warm file cache, one core: 25 frames of a clip by `decode`, by decord, and by the cheapest correct way.

The clip is rendered on the spot and is like UCF101's (AVI, MPEG-4 Part 2, 320x240, 180 frames at 25 fps, MP3 sound).
AVFUSE_BENCH_CLIPS=FOLDER adds figures named `..._real` over the folder's first five clips that all three can read.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from pairs import Figure, compare, write
from scipy.ndimage import gaussian_filter

from features.errors import ClipError
from features.media import MEDIA_SUFFIXES, decode, write_video

try:
    import decord
except ImportError:
    decord = None  # it has no wheels for some platforms

SAMPLING = "uniform:25"
FRAMES, FRAMES_PER_SECOND, HEIGHT, WIDTH = 180, 25, 240, 320
RATE_HZ = 44_100
REAL_CLIPS = 5

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """A file and the frames wanted of it. The opponents are told these; `decode` has to find them out."""

    path: Path
    indices: list[int]


Reader = Callable[[Clip], Pixels]


def main() -> None:
    _keep_to_one_core()
    with tempfile.TemporaryDirectory() as folder:
        write("media", figures(Path(folder)))


def figures(folder: Path) -> Iterator[Figure]:
    opponents: dict[str, Reader] = {"cheapest_correct": read_cheapest}
    if decord is None:
        _note("decord is not installed here: decode_time_over_decord is left out")
    else:
        opponents["decord"] = read_decord
    rendered = clip_of(render_clip(folder / "clip.avi"))
    if not gives_our_pixels(rendered):
        raise SystemExit("the cheapest way gives other pixels than ours: there is nothing to compare")
    clip_sets = {"": [rendered]}
    if real_folder := os.environ.get("AVFUSE_BENCH_CLIPS"):
        clip_sets["_real"] = real_clips(Path(real_folder), opponents)
    for suffix, clips in clip_sets.items():
        for opponent, read in opponents.items():
            name = f"decode_time_over_{opponent}{suffix}"
            yield compare(name, partial(each, read_ours, clips), partial(each, read, clips))


def each(read: Reader, clips: list[Clip]) -> None:
    for clip in clips:
        read(clip)


def read_ours(clip: Clip) -> Pixels:
    frames = decode(clip.path, SAMPLING, audio=False).frames
    assert frames is not None  # clip_of has seen them
    return frames.pixels


def read_decord(clip: Clip) -> Pixels:
    return decord.VideoReader(str(clip.path), num_threads=1).get_batch(clip.indices).asnumpy()


def read_cheapest(clip: Clip) -> Pixels:
    """One plain sequential decode in which only the wanted frames are converted: nothing less gives these pixels."""
    wanted = set(clip.indices)
    kept: dict[int, Pixels] = {}
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                pixels = frame.to_ndarray(format="rgb24", threads=1)
                kept[index] = np.rot90(pixels, round(frame.rotation / 90))
    return np.stack([kept[index] for index in clip.indices])


def gives_our_pixels(clip: Clip) -> bool:
    """Whether the cheapest way is a correct one for this clip."""
    return np.array_equal(read_cheapest(clip), read_ours(clip))


def clip_of(path: Path) -> Clip:
    """Raises ClipError when the file gives no frames."""
    media = decode(path, SAMPLING, audio=False)
    if media.frames is None:
        raise media.frames_error or ClipError("decode", "no frames")
    return Clip(path, media.frames.indices.tolist())


def real_clips(folder: Path, opponents: dict[str, Reader]) -> list[Clip]:
    """The first clips of a folder, by name, that everyone reads and in which the cheapest way gives our pixels."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    clips: list[Clip] = []
    for path in paths:
        if len(clips) == REAL_CLIPS:
            break
        try:
            clip = clip_of(path)
            for read in opponents.values():
                read(clip)
        except (ClipError, *_OPPONENT_ERRORS) as error:
            _note(f"{path.name} is left out: {str(error).splitlines()[0]}")
            continue
        if not gives_our_pixels(clip):
            _note(f"{path.name} is left out: a plain decode gives other frames")
            continue
        clips.append(clip)
    if not clips:
        raise SystemExit(f"AVFUSE_BENCH_CLIPS={folder}: no clip there can be compared")
    return clips


_OPPONENT_ERRORS: tuple[type[Exception], ...] = (FFmpegError, KeyError)  # KeyError: a wanted frame did not decode
if decord is not None:
    _OPPONENT_ERRORS += (decord.DECORDError,)


def render_clip(path: Path) -> Path:
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(HEIGHT + FRAMES, WIDTH + 2 * FRAMES, 3)), sigma=(2, 2, 0))
    texture = np.clip(128 + 60 * texture / texture.std(), 0, 255).astype(np.uint8)
    frames = (texture[shift : shift + HEIGHT, 2 * shift : 2 * shift + WIDTH] for shift in range(FRAMES))
    seconds = np.arange(FRAMES * RATE_HZ // FRAMES_PER_SECOND) / RATE_HZ
    sound = 0.3 * np.sin(2 * np.pi * 440 * seconds) + rng.normal(scale=0.05, size=len(seconds))
    return write_video(path, frames, fps=FRAMES_PER_SECOND, waveform=sound, sample_rate_hz=RATE_HZ)


def _keep_to_one_core() -> None:
    """Decoders start threads of their own (decord to read ahead, FFmpeg to convert colours): on one core, all that work
    counts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    else:
        _note("this system cannot keep a process to one core: helper threads of the decoders run beside them")


def _note(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
