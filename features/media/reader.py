"""Reading a clip: one sequential decode, in which only the wanted frames become pixels."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from features.errors import ClipError, UsageError
from features.media.clip import Frames, Media, Waveform
from features.media.probe import open_container, picture_stream
from features.media.sampling import parse_frames
from features.media.timeline import Promise, Timeline, promised_timeline, timeline
from features.media.waveform import WaveformBuilder

READER = "pyav"
READER_REVISION = 1

MIN_DECODED_FRACTION = 0.8
"""A damaged video is used when at least this share of its frames decodes; less is a failure."""


def decode(
    path: str | Path,
    frames: str | None = "uniform:25",
    audio: bool = True,
    start: float | None = None,
    end: float | None = None,
) -> Media:
    """Decode one clip: its frames by a sampling scheme, and its sound.

    Args:
        path: any media file FFmpeg reads; a sound file is a clip too.
        frames: `uniform:N`, or None for no frames.
        audio: whether to decode the sound.
        start, end: interval in seconds since the first displayed frame (the first sample where there is no video).

    Returns:
        Media with `frames` (T, H, W, 3) uint8 at native size and `waveform` (samples,) float32 at native rate. A
        stream that is absent or fails leaves the other usable; see Media.

    Raises:
        ClipError: the file cannot be opened at all, or is cut short of most of what its header says.
        UsageError: the sampling scheme or the interval makes no sense.
    """
    path = Path(path)
    wanted = parse_frames(frames) if frames is not None else 0
    _check_interval(start, end)
    with open_container(path) as container:
        has_audio = bool(container.streams.audio)
        video = picture_stream(container)
        promised = promised_timeline(container, video) if video is not None else None
    if promised is None or not promised.timeline.starts:
        missing = ClipError("decode", "no video stream" if promised is None else "the video stream is empty")
        waveform, waveform_error = _only_sound(path, start, end) if audio and has_audio else (None, None)
        return Media(
            frames=None,
            waveform=waveform,
            has_audio=has_audio,
            frames_error=missing if wanted else None,
            waveform_error=waveform_error,
        )
    if len(promised.timeline.starts) < MIN_DECODED_FRACTION * promised.frames:
        there = len(promised.timeline.starts)
        raise ClipError("open", f"the file is cut short: {there} of {promised.frames} video frames are there")
    return _frames_and_sound(path, promised, wanted, audio and has_audio, has_audio, start, end)


def _check_interval(start: float | None, end: float | None) -> None:
    if start is not None and not start >= 0:
        raise UsageError(f"start={start}: a clip starts at 0 seconds or later")
    if end is not None and not end > (start or 0):
        raise UsageError(f"end={end}: a clip ends after its start ({start or 0})")


@dataclass
class _Pass:
    """What one sequential decode gathers."""

    ticks: list[int | None] = field(default_factory=list)
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    sound: WaveformBuilder = field(default_factory=WaveformBuilder)
    frame_problem: str | None = None
    sound_problem: str | None = None


def _frames_and_sound(
    path: Path,
    promised: Promise,
    wanted: int,
    decode_sound: bool,
    has_audio: bool,
    start: float | None,
    end: float | None,
) -> Media:
    guess = set(promised.timeline.uniform(wanted, start, end).tolist()) if wanted else set()
    result = _decode_pass(path, guess, decode_frames=wanted > 0, decode_sound=decode_sound)
    actual = promised.timeline
    frames, frames_error = None, None
    if wanted:
        try:
            frames, actual = _choose_frames(path, result, promised, wanted, start, end)
        except ClipError as error:
            frames_error = error
    waveform, waveform_error = None, None
    if decode_sound:
        try:
            waveform = _cut(result, actual.origin, start, end, clip_end=actual.end)
        except ClipError as error:
            waveform_error = error
    return Media(
        frames=frames,
        waveform=waveform,
        has_audio=has_audio,
        frames_error=frames_error,
        waveform_error=waveform_error,
    )


def _choose_frames(
    path: Path, result: _Pass, promised: Promise, wanted: int, start: float | None, end: float | None
) -> tuple[Frames, Timeline]:
    """The frames the scheme names on the timeline that really decoded; a second decode where the packets promised
    another one."""
    decoded = len(result.ticks)
    if decoded == 0 or decoded < MIN_DECODED_FRACTION * promised.frames:
        reason = f" ({result.frame_problem})" if result.frame_problem else ""
        raise ClipError("decode", f"only {decoded} of {promised.frames} video frames can be decoded{reason}")
    actual = timeline(result.ticks, promised.clock)
    indices = actual.uniform(wanted, start, end)
    missing = set(indices.tolist()) - result.pixels.keys()
    if missing:
        result.pixels.update(_decode_pass(path, missing, decode_frames=True, decode_sound=False).pixels)
    frames = Frames(
        pixels=np.stack([result.pixels[index] for index in indices.tolist()]),
        times=np.array([float(actual.starts[index]) for index in indices.tolist()]),
        indices=indices,
        available=decoded,
    )
    return frames, actual


def _decode_pass(path: Path, wanted: set[int], *, decode_frames: bool, decode_sound: bool) -> _Pass:
    result = _Pass()
    with open_container(path) as container:
        video = picture_stream(container) if decode_frames else None
        sound = container.streams.audio[0] if decode_sound else None
        streams = [stream for stream in (video, sound) if stream is not None]
        if video is not None:
            video.codec_context.thread_count = 1  # one codec thread: clips are decoded side by side, in processes
        packets = container.demux(*streams)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, EOFError):
                break
            except FFmpegError as error:  # the container itself is damaged from here on
                result.frame_problem = result.frame_problem or error.strerror
                break
            try:
                decoded = packet.decode()
            except FFmpegError as error:  # one bad packet costs its own frames
                if packet.stream is video:
                    result.frame_problem = result.frame_problem or error.strerror
                else:
                    result.sound_problem = result.sound_problem or error.strerror
                continue
            for frame in decoded:
                if isinstance(frame, av.VideoFrame):
                    if len(result.ticks) in wanted:
                        result.pixels[len(result.ticks)] = _upright_rgb(frame)
                    result.ticks.append(frame.pts)
                elif isinstance(frame, av.AudioFrame):
                    result.sound.add(frame)
        result.sound.finish()
    return result


def _upright_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    # One thread: PyAV's default of one per core is slower at these sizes, and clips are decoded side by side anyway.
    pixels = np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)
    quarter_turns = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels


def _only_sound(path: Path, start: float | None, end: float | None) -> tuple[Waveform | None, ClipError | None]:
    result = _decode_pass(path, set(), decode_frames=False, decode_sound=True)
    try:
        return _cut(result, result.sound.first_time, start, end, clip_end=None), None
    except ClipError as error:
        return None, error


def _cut(
    result: _Pass, origin: Fraction, start: float | None, end: float | None, clip_end: Fraction | None
) -> Waveform:
    """The sound between start and end on the clip's timeline, cut where the picture ends."""
    if result.sound.rate_hz is None:
        reason = f" ({result.sound_problem})" if result.sound_problem else ""
        raise ClipError("decode", f"the audio stream gives no samples{reason}")
    first = Fraction(start) if start is not None else Fraction(0)
    ends = [bound for bound in (Fraction(end) if end is not None else None, clip_end) if bound is not None]
    waveform = result.sound.cut(origin + first, origin + min(ends) if ends else None)
    if len(waveform.samples) == 0:
        raise ClipError("decode", "the audio stream has no samples within the clip")
    return waveform
