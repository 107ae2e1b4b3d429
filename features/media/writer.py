"""Writing of video files; equal input gives equal bytes."""

import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.stream import VideoStream

from avfuse.features.atomic import atomic_write

_AUDIO_LAYOUTS = {1: "mono", 2: "stereo"}


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    fps: float | Fraction,
    waveform: npt.NDArray[np.floating] | None = None,
    sample_rate_hz: int | None = None,
    video_codec: str = "mpeg4",
    audio_codec: str = "libmp3lame",
    pixel_format: str = "yuv420p",
    video_bit_rate: int = 600_000,
    audio_bit_rate: int = 128_000,
    video_options: Mapping[str, str] | None = None,
    audio_options: Mapping[str, str] | None = None,
) -> Path:
    """Write frames and an optional waveform to a video file, atomically.

    With an ``.avi`` path the defaults give what UCF101 is made of: MPEG-4 Part 2 video and MP3 audio, interleaved frame
    by frame. Frames are taken from the iterable one at a time, so a generator of any length needs no memory. Equal
    arguments give equal bytes (single-threaded codecs, FFmpeg's bitexact mode) under one version of FFmpeg.

    Args:
        path: the file to write; its suffix picks the container (``.avi``, ``.mp4``, ``.mkv``, ...). Its folder must
            exist; a file already there is replaced.
        frames: uint8 RGB arrays of shape (H, W, 3), all of one shape, at least one.
        fps: frames per second.
        waveform: floating point, shape (samples,) or (samples, channels) with one or two channels, values in [-1, 1].
            None gives a file without an audio stream. It may be shorter or longer than the frames last.
        sample_rate_hz: samples per second of ``waveform``; needed exactly when there is one.
        video_codec: name of an FFmpeg video encoder.
        audio_codec: name of an FFmpeg audio encoder.
        pixel_format: how the encoder stores pixels.
        video_bit_rate: target in bits per second.
        audio_bit_rate: target in bits per second.
        video_options: further options of the video encoder, by their FFmpeg names.
        audio_options: further options of the audio encoder; ``{"compression_level": "9"}`` makes MP3 encode fastest.

    Returns:
        The path written.

    Raises:
        ValueError: an argument is out of its range, or the frames are none or not of one shape.
        av.error.FFmpegError: the container or codec is unknown, or the container refuses the codec.
    """
    target = Path(path)
    rate = _checked_fps(fps)
    samples = _checked_waveform(waveform, sample_rate_hz)
    # The suffix stays last so that FFmpeg picks the same container as for the target.
    options = _muxer_options(target.suffix)
    with (
        atomic_write(target, suffix=f".partial{target.suffix}") as temporary,
        av.open(str(temporary), "w", container_options=options) as container,
    ):
        video = _add_video(container, video_codec, rate, pixel_format, video_bit_rate, video_options)
        audio = None
        if samples is not None and sample_rate_hz is not None:
            layout = _AUDIO_LAYOUTS[samples.shape[0]]
            audio = _add_audio(container, audio_codec, sample_rate_hz, layout, audio_bit_rate, audio_options)
        _mux(container, video, frames, rate, audio, samples)
    return target


def _mux(
    container: OutputContainer,
    video: VideoStream,
    frames: Iterable[npt.NDArray[np.uint8]],
    fps: Fraction,
    audio: AudioStream | None,
    samples: npt.NDArray[np.float32] | None,
) -> None:
    """Encode frame by frame, each followed by the sound that plays during it, so that readers need little buffering."""
    shape: tuple[int, ...] | None = None
    written_samples = 0
    for index, pixels in enumerate(frames):
        _check_frame(pixels, index, shape)
        if shape is None:
            shape = pixels.shape
            video.height, video.width = shape[:2]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts = index
        frame.time_base = 1 / fps
        container.mux(video.encode(frame))
        if audio is not None and samples is not None:
            end_sample = int((index + 1) * audio.rate / fps)
            _encode_audio(container, audio, samples, written_samples, end_sample)
            written_samples = end_sample
    if shape is None:
        raise ValueError("frames is empty; a video needs at least one frame")
    if audio is not None and samples is not None:
        _encode_audio(container, audio, samples, written_samples, samples.shape[1])
    container.mux(video.encode(None))
    if audio is not None:
        container.mux(audio.encode(None))


def _encode_audio(
    container: OutputContainer, audio: AudioStream, samples: npt.NDArray[np.float32], start: int, end: int
) -> None:
    """Encode ``samples[:, start:end]``; past the end of the waveform there is nothing to do."""
    piece = samples[:, start:end]
    if piece.shape[1] == 0:
        return
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=audio.layout.name)
    frame.sample_rate = audio.rate
    frame.pts = start
    frame.time_base = Fraction(1, audio.rate)
    container.mux(audio.encode(frame))


def _muxer_options(suffix: str) -> dict[str, str]:
    options = {"fflags": "+bitexact"}
    if suffix.lower() == ".avi":
        # An MP3 encoder starts 25 ms before zero. AVI keeps no start time: left alone, FFmpeg shifts both streams to
        # make that start zero, and the video gets an empty slot after its first frame.
        options["avoid_negative_ts"] = "disabled"
    return options


def _add_video(
    container: OutputContainer,
    codec: str,
    fps: Fraction,
    pixel_format: str,
    bit_rate: int,
    options: Mapping[str, str] | None,
) -> VideoStream:
    _check_encoder("video_codec", codec, "video")
    stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=dict(options or {})))
    stream.pix_fmt = pixel_format
    stream.bit_rate = bit_rate
    stream.codec_context.flags |= Flags.bitexact
    # Some encoders cut a picture into one slice per thread, so the bytes would follow the number of cores.
    stream.codec_context.thread_count = 1
    return stream


def _add_audio(
    container: OutputContainer,
    codec: str,
    sample_rate_hz: int,
    layout: str,
    bit_rate: int,
    options: Mapping[str, str] | None,
) -> AudioStream:
    _check_encoder("audio_codec", codec, "audio")
    stream = cast(
        AudioStream, container.add_stream(codec, rate=sample_rate_hz, options=dict(options or {}), layout=layout)
    )
    stream.bit_rate = bit_rate
    stream.codec_context.flags |= Flags.bitexact
    stream.codec_context.thread_count = 1
    return stream


def _check_encoder(argument: str, codec: str, kind: str) -> None:
    if av.Codec(codec, "w").type != kind:
        raise ValueError(f"{argument}={codec!r} is not an encoder of {kind}")


def _checked_fps(fps: float | Fraction) -> Fraction:
    if not 0 < fps < 1000:
        raise ValueError(f"fps={fps!r} must lie between 0 and 1000")
    # 1001 is the denominator of the broadcast rates (29.97 = 30000/1001).
    return Fraction(fps).limit_denominator(1001)


def _checked_waveform(
    waveform: npt.NDArray[np.floating] | None, sample_rate_hz: int | None
) -> npt.NDArray[np.float32] | None:
    """Return the waveform as (channels, samples), the order planar encoders want."""
    if waveform is None:
        if sample_rate_hz is not None:
            raise ValueError(f"sample_rate_hz={sample_rate_hz!r} was given without a waveform")
        return None
    if sample_rate_hz is None or sample_rate_hz <= 0:
        raise ValueError(f"sample_rate_hz={sample_rate_hz!r} must be a positive number when there is a waveform")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"waveform has dtype {waveform.dtype}; it must be floating point, in [-1, 1]")
    columns = waveform[:, None] if waveform.ndim == 1 else waveform
    if columns.ndim != 2 or columns.shape[1] not in _AUDIO_LAYOUTS or columns.shape[0] == 0:
        raise ValueError(f"waveform has shape {waveform.shape}; it must be (samples,), (samples, 1) or (samples, 2)")
    peak = float(np.max(np.abs(columns)))
    if not peak <= 1.0:
        raise ValueError(f"waveform reaches {peak}; its values must lie in [-1, 1]")
    return np.ascontiguousarray(columns.T, dtype=np.float32)


def _check_frame(pixels: npt.NDArray[np.uint8], index: int, shape: tuple[int, ...] | None) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"frame {index} is {pixels.dtype} {pixels.shape}; frames must be uint8 (H, W, 3)")
    if shape is not None and pixels.shape != shape:
        raise ValueError(f"frame {index} has shape {pixels.shape}, the first one {shape}; all must be of one shape")
