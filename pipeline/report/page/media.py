"""Frames, sound and audio images of a clip for the page, compressed."""

import io
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import soxr
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.context import Flags
from numpy.typing import NDArray
from PIL import Image

from avfuse.features.audio_images import list_audio_images, render
from avfuse.features.cache import FeatureStore
from avfuse.features.cache.store import find_specs
from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError
from avfuse.features.media import Waveform, decode
from avfuse.pipeline.report.page.document import data_address

FRAMES = 8
_WIDTH = 208
_QUALITY = 72
_RATE_HZ = 24_000
_BIT_RATE = 48_000
_LONGEST_SECONDS = 30.0
_ENCODERS = (("libmp3lame", "mp3", "audio/mpeg"), ("aac", "mp4", "audio/mp4"))
"""Encodings that every browser plays, the smaller first."""


@dataclass(frozen=True)
class ClipMedia:
    """Pictures and sound of a clip as data URLs."""

    frames: list[tuple[str, float]] = field(default_factory=list)  # with times in seconds
    images: dict[str, str] = field(default_factory=dict)  # by representation
    sound: str | None = None
    notes: list[str] = field(default_factory=list)  # what is missing or cut, and why


def clip_media(clip: Clip, with_sound: bool = True) -> ClipMedia:
    """Decode and compress a clip. `notes` of the result name what is missing or damaged."""
    try:
        media = decode(clip.path, f"uniform:{FRAMES}", start=clip.start, end=clip.end)
    except ClipError as error:
        return ClipMedia(notes=[f"its file cannot be shown: {error}"])
    notes, frames = [], []
    if media.frames is not None:
        try:
            pixels = media.frames.pixels
        except ClipError as error:
            notes.append(str(error))
        else:
            times = media.frames.times - media.start
            frames = [
                (picture(frame, _WIDTH), round(float(time), 2)) for frame, time in zip(pixels, times, strict=True)
            ]
    elif media.frames_error is not None:
        notes.append(str(media.frames_error))
    if media.waveform is None:
        notes.append(str(media.waveform_error) if media.waveform_error else "the clip has no sound")
        return ClipMedia(frames, notes=notes)
    images: dict[str, str] = {}
    try:
        drawn = render(media.waveform.samples, media.waveform.rate_hz)
        images = {name: picture(pixels) for name, pixels in drawn.items()}
    except ClipError as error:
        notes.append(str(error))
    sound = None
    if with_sound:
        sound = encode_sound(media.waveform)
        if media.waveform.duration_seconds > _LONGEST_SECONDS:
            notes.append(
                f"the first {_LONGEST_SECONDS:g} of {media.waveform.duration_seconds:.0f} seconds are played here"
            )
    return ClipMedia(frames, images, sound, notes)


def cached_images(clip: Clip, cache: Path, collection: str) -> dict[str, str]:
    """Audio images that were extracted as features (`image:...`), for clips whose file is missing."""
    images = {}
    for name in list_audio_images():
        for spec in find_specs(cache, collection, f"image:{name}"):
            loaded = FeatureStore(cache, collection, spec).load([clip])
            if loaded.present[0]:
                images[name] = picture(loaded.data[0])
    return images


def picture(pixels: NDArray[np.uint8], width: int | None = None) -> str:
    """A picture uint8 (H, W, 3) or grey (H, W) as a WebP data URL, resized to `width` pixels with its aspect kept."""
    image = Image.fromarray(pixels)
    if width is not None and image.width != width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return _address(image, quality=_QUALITY)


def heat(pixels: NDArray[np.uint8]) -> str:
    """An RGBA picture uint8 (H, W, 4) as a WebP data URL."""
    return _address(Image.fromarray(pixels, "RGBA"), quality=60)


def _address(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality, method=4)
    return data_address(buffer.getvalue(), "image/webp")


def encode_sound(waveform: Waveform) -> str:
    """Up to half a minute of sound as a data URL: mono, 24 kHz, 48 kbit/s, as MP3, or AAC without an MP3 encoder, else
    WAV."""
    samples = waveform.samples[: round(_LONGEST_SECONDS * waveform.rate_hz)]
    resampled = soxr.resample(samples, waveform.rate_hz, _RATE_HZ) if waveform.rate_hz != _RATE_HZ else samples
    pcm = (np.clip(resampled, -1, 1) * 32767).astype(np.int16)
    for codec, container, kind in (*_ENCODERS, ("pcm_s16le", "wav", "audio/wav")):
        if codec in av.codecs_available:
            return data_address(_encoded(pcm, codec, container), kind)
    raise AssertionError("FFmpeg always has pcm_s16le")


def _encoded(pcm: NDArray[np.int16], codec: str, container: str) -> bytes:
    """Encode mono samples at `_RATE_HZ`. Equal samples give equal bytes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, container_options={"fflags": "+bitexact"}) as output:
        stream = cast(AudioStream, output.add_stream(codec, rate=_RATE_HZ, layout="mono"))
        if codec != "pcm_s16le":
            stream.bit_rate = _BIT_RATE
        stream.codec_context.flags |= Flags.bitexact
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = _RATE_HZ, Fraction(1, _RATE_HZ), 0
        size = stream.codec_context.frame_size or None
        resampler = AudioResampler(stream.codec_context.format, "mono", _RATE_HZ, frame_size=size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return buffer.getvalue()
