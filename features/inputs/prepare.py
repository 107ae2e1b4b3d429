"""Preparation of a clip as the arrays that backbones take. Runs in decode workers: nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avfuse.features import archives
from avfuse.features.audio_images import render
from avfuse.features.errors import ClipError
from avfuse.features.inputs.filter_bank import filter_banks
from avfuse.features.inputs.hf_audio import hf_audio_features
from avfuse.features.inputs.resize import resize_and_crop, resize_image
from avfuse.features.media import DEFAULT_READER, Media, MediaFile, Waveform
from avfuse.features.spec import (
    AnyInput,
    FilterBankInput,
    FramesInput,
    ImageInput,
    ImportedInput,
    Preprocess,
    SoundInput,
)


@dataclass(frozen=True)
class NoAudio:
    """The clip has no audio stream: no feature, but not a failure."""


Outcome = NDArray[Any] | NoAudio | ClipError
"""Result of one input, or one feature, of one clip."""


class PreparedInputs(NamedTuple):
    """Inputs of one clip."""

    outcomes: list[Outcome]
    """One per input, in the order of the call."""

    notes: tuple[str, ...]
    """Warnings about a clip that is used nevertheless, a line each."""


class SharedFile:
    """Keeps the last clip's file open, as the clips of one long video follow each other."""

    def __init__(self) -> None:
        self._file: MediaFile | None = None
        self._stamp: tuple[Path, str, int, int] | None = None

    def open(self, path: Path, reader: str) -> MediaFile:
        """Return the open file, or open another in its place. Raises ClipError when it cannot be opened."""
        stamp = (path, reader, *_stat(path))
        if self._file is None or self._stamp != stamp:
            self.close()
            self._file = MediaFile(path, reader)
            self._stamp = stamp
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._stamp = None


def prepare(
    path: Path,
    start: float | None,
    end: float | None,
    inputs: Sequence[AnyInput],
    shared: SharedFile | None = None,
) -> PreparedInputs:
    """Decode a clip once and compute its inputs: arrays of `input.shape` and `input_dtype(input)`.

    Args:
        path, start, end: the clip; seconds, None for the file's own start or end.
        inputs: specs of the inputs; without any, the file is not opened.
        shared: keeps the file open for the next clip.

    A broken clip raises nothing: its ClipError takes the place of every input it affects.
    """
    if not inputs:
        return PreparedInputs([], ())
    frame_inputs = [spec for spec in inputs if isinstance(spec, FramesInput)]
    needs_audio = len(frame_inputs) < len(inputs)
    reader = frame_inputs[0].reader.name if frame_inputs else DEFAULT_READER
    assert all(spec.reader.name == reader for spec in frame_inputs), "one run has one reader"
    schemes = list(dict.fromkeys(spec.sampling for spec in frame_inputs))
    try:
        if shared is None:
            with MediaFile(path, reader) as file:
                media = file.read(schemes, audio=needs_audio, start=start, end=end)
        else:
            media = shared.open(path, reader).read(schemes, audio=needs_audio, start=start, end=end)
    except ClipError as error:
        return PreparedInputs([error for _ in inputs], ())
    resized = _ResizedFrames()
    images = _draw_images(media, [spec for spec in inputs if isinstance(spec, ImageInput)])
    outcomes: list[Outcome] = []
    for spec in inputs:
        if isinstance(spec, FramesInput):
            outcomes.append(_stack_frames(media, spec, resized))
        elif isinstance(spec, ImageInput):
            outcomes.append(images[spec])
        else:
            assert not isinstance(spec, ImportedInput), "imported features have no input"
            outcomes.append(_audio_input(media, spec))
    return PreparedInputs(outcomes, media.notes)


def input_dtype(spec: AnyInput) -> type[np.uint8 | np.float32]:
    """dtype of an input's array."""
    return np.uint8 if isinstance(spec, FramesInput | ImageInput) else np.float32


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        member = archives.stat_member(path)
        return (member.size, member.mtime_ns) if member else (0, 0)  # opening it says what is wrong
    return status.st_size, status.st_mtime_ns


def _waveform(media: Media) -> Waveform | NoAudio | ClipError:
    if not media.has_audio:
        return NoAudio()
    return media.waveform or media.waveform_error or ClipError("decode", "the audio stream gives no samples")


def _draw_images(media: Media, inputs: Sequence[ImageInput]) -> dict[ImageInput, Outcome]:
    """Audio images of one clip; those of one style and size share their spectral features."""
    waveform = _waveform(media)
    if not isinstance(waveform, Waveform):
        return dict.fromkeys(inputs, waveform)
    outcomes: dict[ImageInput, Outcome] = {}
    for style, size in {(spec.style, (spec.height, spec.width)) for spec in inputs}:
        group = [spec for spec in inputs if (spec.style, spec.height, spec.width) == (style, *size)]
        names = list(dict.fromkeys(spec.representation for spec in group))
        try:
            images = render(waveform.samples, waveform.rate_hz, style=style, size=size, representations=names)
        except ClipError as error:
            outcomes.update(dict.fromkeys(group, error))
        else:
            outcomes.update({spec: resize_image(images[spec.representation], spec.preprocess) for spec in group})
    return outcomes


def _audio_input(media: Media, spec: FilterBankInput | SoundInput) -> Outcome:
    waveform = _waveform(media)
    if not isinstance(waveform, Waveform):
        return waveform
    try:
        samples = waveform.at_rate(spec.rate_hz).samples
        if isinstance(spec, FilterBankInput):
            return filter_banks([samples])[0]
        return hf_audio_features(spec.extractor, samples[: round(spec.seconds * spec.rate_hz)], spec.rate_hz)
    except ClipError as error:
        return error


class _ResizedFrames:
    """Frames at the sizes that backbones take: each frame is resized once per size."""

    def __init__(self) -> None:
        self._frames: dict[tuple[int, Preprocess], NDArray[np.uint8]] = {}

    def frame(self, rank: int, pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
        key = (rank, preprocess.geometry)
        if key not in self._frames:
            self._frames[key] = resize_and_crop(pixels, preprocess)
        return self._frames[key]


def _stack_frames(media: Media, spec: FramesInput, resized: _ResizedFrames) -> Outcome:
    frames = media.by_scheme.get(spec.sampling)
    if frames is None:
        return media.frames_error or ClipError("decode", "no video frames")
    pixels = frames.distinct
    return np.stack([resized.frame(rank, pixels[rank], spec.preprocess) for rank in frames.indices.tolist()])
