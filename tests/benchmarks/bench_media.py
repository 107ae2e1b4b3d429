"""Frames only, warm file cache, one core: 25 frames of a clip by `decode`, and by every other good way there is.

The clip is rendered on the spot and is like UCF101's (AVI, MPEG-4 Part 2, 320x240, 180 frames at 25 fps, MP3 sound); a
second one is the same as H.264 in MP4. AVFUSE_BENCH_CLIPS=FOLDER adds figures named `..._real` over the folder's first
clips that everyone reads right. Last, the memory that decode workers gain per clip.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import psutil
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from pairs import Figure, compare, write
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress

from avfuse.features.clips import Clip as ClipToPrepare
from avfuse.features.errors import ClipError
from avfuse.features.feature_names import resolve
from avfuse.features.media import MEDIA_SUFFIXES, MediaFile, decode, write_video
from avfuse.stages.extract.pool import DecodePool

try:
    import decord
except ImportError:
    decord = None  # it has no wheels for some platforms
try:
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
except (ImportError, RuntimeError):  # it comes without FFmpeg's libraries and fails where it finds none
    VideoDecoder = None

SAMPLING = "uniform:25"
FRAMES, FRAMES_PER_SECOND, HEIGHT, WIDTH = 180, 25, 240, 320
RATE_HZ = 44_100
REAL_CLIPS = 8
MEMORY_CLIPS = 2000
SEGMENTS, SEGMENT_SECONDS = 25, 2.6

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """A file and the frames wanted of it, by rank and by timestamp (None where the file's mean nothing). The opponents
    are told these; `decode` has to find them out."""

    path: Path
    indices: list[int]
    ticks: list[int] | None


Reader = Callable[[Clip], Pixels]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write("media", figures(Path(folder)))


def figures(folder: Path) -> Iterator[Figure]:
    rendered = clip_of(render_clip(folder / "clip.avi", "mpeg4"))
    h264 = clip_of(render_clip(folder / "clip.mp4", "libx264"))
    clip_sets = {"": [rendered], "_h264": [h264]}
    with one_core():
        if real_folder := os.environ.get("AVFUSE_BENCH_CLIPS"):
            clip_sets["_real"] = real_clips(Path(real_folder))
        for suffix, clips in clip_sets.items():
            for opponent, read in OPPONENTS.items():
                if not all(gives_our_pixels(read, clip) for clip in clips):
                    _note(
                        f"{opponent} gives other pixels than a plain decode{suffix and ' of ' + suffix[1:]}: left out"
                    )
                    continue
                name = f"decode_time_over_{opponent}{suffix}"
                yield compare(name, partial(each, read_ours, clips), partial(each, read, clips))
        long = render_long(folder / "long.mp4")
        segments = segments_of(long)
        ours, theirs = partial(read_segments, long, segments), partial(seek_by_hand, long, segments)
        if not all(np.array_equal(*pair) for pair in zip(ours(), theirs(), strict=True)):
            raise SystemExit("seeking by hand gives other pixels than ours: there is nothing to compare")
        yield compare("segment_time_over_seek_by_hand", ours, theirs)
    yield memory_per_clip([rendered.path, h264.path])


def each(read: Reader, clips: list[Clip]) -> None:
    for clip in clips:
        read(clip)


def read_ours(clip: Clip) -> Pixels:
    frames = decode(clip.path, SAMPLING, audio=False).frames
    assert frames is not None  # clip_of has seen them
    return frames.pixels


def read_decord(clip: Clip) -> Pixels:
    return decord.VideoReader(str(clip.path), num_threads=1).get_batch(clip.indices).asnumpy()


def read_torchcodec(clip: Clip) -> Pixels:
    decoder = VideoDecoder(str(clip.path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    return decoder.get_frames_at(clip.indices).data.numpy()


def read_everything(clip: Clip) -> Pixels:
    """A plain sequential decode that converts every frame, then takes the wanted ones."""
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        frames = [_upright(frame, frame.to_ndarray(format="rgb24", threads=1)) for frame in container.decode(stream)]
    return np.stack([frames[index] for index in clip.indices])


def read_cheapest(clip: Clip) -> Pixels:
    """One sequential decode in which only the wanted frames are converted, by one converter, and what none of them
    needs is not decoded: nothing less that we know gives these pixels."""
    wanted = dict(zip(clip.ticks, clip.indices, strict=True)) if clip.ticks else {}
    by_rank = set(clip.indices)
    kept: dict[int, Pixels] = {}
    converter = VideoReformatter()
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        rank = 0
        for packet in container.demux(stream):
            if wanted and stream.codec_context.name == "h264":
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted or not packet.size else "NONREF"
            for frame in packet.decode():
                index = wanted.get(frame.pts) if wanted else rank if rank in by_rank else None
                if index is not None:
                    pixels = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    kept[index] = _upright(frame, pixels)
                rank += 1
    return np.stack([kept[index] for index in clip.indices])


def _upright(frame: av.VideoFrame, pixels: Pixels) -> Pixels:
    return np.rot90(pixels, round(frame.rotation / 90))


OPPONENTS: dict[str, Reader] = {"cheapest_correct": read_cheapest, "full_decode": read_everything}
if decord is not None:
    OPPONENTS["decord"] = read_decord
if VideoDecoder is not None:
    OPPONENTS["torchcodec"] = read_torchcodec


def gives_our_pixels(read: Reader, clip: Clip) -> bool:
    """Whether someone gives the frames that are asked for."""
    try:
        theirs = read(clip)
    except Exception as error:  # noqa: BLE001  (each library fails in its own way)
        _note(f"{clip.path.name}: {str(error).splitlines()[0]}")
        return False
    ours = read_ours(clip)
    return theirs.shape == ours.shape and bool((np.abs(theirs.astype(int) - ours).mean(axis=(1, 2, 3)) < 1).all())


def clip_of(path: Path) -> Clip:
    """Raises ClipError when the file gives no frames."""
    media = decode(path, SAMPLING, audio=False)
    if media.frames is None:
        raise media.frames_error or ClipError("decode", "no frames")
    indices = media.frames.indices.tolist()
    if media.frames.time_source == "index" or len(set(indices)) < len(indices):
        return Clip(path, indices, None)
    with av.open(str(path)) as container:
        ticks = [frame.pts for frame in container.decode(video=0)]
    return Clip(path, indices, [ticks[index] for index in indices])


def real_clips(folder: Path) -> list[Clip]:
    """The first clips of a folder, by name, of which everyone gives the right frames."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    clips: list[Clip] = []
    for path in paths:
        if len(clips) == REAL_CLIPS:
            break
        try:
            clip = clip_of(path)
        except ClipError as error:
            _note(f"{path.name} is left out: {error}")
            continue
        wrong = [name for name, read in OPPONENTS.items() if not gives_our_pixels(read, clip)]
        if wrong:
            _note(f"{path.name} is left out: {', '.join(wrong)} cannot read it right")
            continue
        clips.append(clip)
    if not clips:
        raise SystemExit(f"AVFUSE_BENCH_CLIPS={folder}: no clip there can be compared")
    return clips


def segments_of(path: Path) -> list[tuple[float, list[int]]]:
    """Starts of segments all over a long file, in order, and the timestamps of the frames wanted of each."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        ticks = [packet.pts for packet in container.demux(stream) if packet.size]
        base = stream.time_base
    by_time = sorted(ticks)
    starts = [60 + 8 * rank for rank in range(SEGMENTS)]
    return [
        (start, [tick for tick in by_time if start <= tick * base < start + SEGMENT_SECONDS][2::5]) for start in starts
    ]


def read_segments(path: Path, segments: list[tuple[float, list[int]]]) -> list[Pixels]:
    read = []
    with MediaFile(path) as file:
        for start, ticks in segments:
            media = file.read([f"strided:{len(ticks)}x5"], audio=False, start=start, end=start + SEGMENT_SECONDS)
            assert media.frames is not None
            read.append(media.frames.pixels)
    return read


def seek_by_hand(path: Path, segments: list[tuple[float, list[int]]]) -> list[Pixels]:
    """Seek to the key frame before each segment, decode to its last frame; file open, frames known."""
    read = []
    converter = VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for _, ticks in segments:
            container.seek(ticks[0], stream=stream)
            wanted, kept = set(ticks), []
            for packet in container.demux(stream):
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                for frame in packet.decode():
                    if frame.pts in wanted:
                        kept.append(converter.reformat(frame, format="rgb24", threads=1).to_ndarray())
                if len(kept) == len(ticks):
                    break
            read.append(np.stack(kept))
    return read


def memory_per_clip(paths: list[Path]) -> Figure:
    """KiB that the decode workers gain per clip: the slope of their own memory over clips, without recycling them."""
    inputs = [spec.input for spec in resolve(["lite:frames", "lite:waveplot"], SAMPLING)]
    clips = [ClipToPrepare(str(rank), paths[rank % len(paths)]) for rank in range(MEMORY_CLIPS)]
    counts, kib = [], []
    with DecodePool(2, inputs, tasks_per_process=0) as pool:
        for count, _ in enumerate(pool.prepare((clip, inputs) for clip in clips)):
            if count >= MEMORY_CLIPS // 10 and count % 50 == 0:
                counts.append(count)
                kib.append(_own_memory_kib())
    fit = linregress(counts, kib)
    low, high = (fit.slope + sign * 1.96 * fit.stderr for sign in (-1, 1))
    return Figure("decode_memory_kib_per_clip", fit.slope, "KiB", low, high, len(counts))


def _own_memory_kib() -> float:
    """Memory that only one of this process's descendants uses, in all."""
    return sum(child.memory_full_info().uss for child in psutil.Process().children(recursive=True)) / 1024


def render_long(path: Path) -> Path:
    """Five minutes of H.264."""
    options = {"preset": "veryfast"}
    return write_video(
        path, drift(300 * FRAMES_PER_SECOND), fps=FRAMES_PER_SECOND, video_codec="libx264", video_options=options
    )


def drift(count: int) -> Iterator[Pixels]:
    """A texture that moves by a pixel or two a frame, over and over."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(HEIGHT + FRAMES, WIDTH + 2 * FRAMES, 3)), sigma=(2, 2, 0))
    texture = np.clip(128 + 60 * texture / texture.std(), 0, 255).astype(np.uint8)
    for shift in (rank % FRAMES for rank in range(count)):
        yield texture[shift : shift + HEIGHT, 2 * shift : 2 * shift + WIDTH]


def render_clip(path: Path, codec: str) -> Path:
    rng = np.random.default_rng(0)
    seconds = np.arange(FRAMES * RATE_HZ // FRAMES_PER_SECOND) / RATE_HZ
    sound = 0.3 * np.sin(2 * np.pi * 440 * seconds) + rng.normal(scale=0.05, size=len(seconds))
    return write_video(
        path, drift(FRAMES), fps=FRAMES_PER_SECOND, waveform=sound, sample_rate_hz=RATE_HZ, video_codec=codec
    )


@contextmanager
def one_core() -> Iterator[None]:
    """Decoders start threads of their own (decord to read ahead, FFmpeg to convert colours): on one core, all that work
    counts."""
    if not hasattr(os, "sched_setaffinity"):
        _note("this system cannot keep a process to one core: helper threads of the decoders run beside them")
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _note(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
