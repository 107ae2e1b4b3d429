"""From one clip to the arrays that backbones take. Runs in decode workers: nothing here imports torch."""

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
from avfuse.features.inputs.hf_audio import extracted
from avfuse.features.inputs.resize import fit_frame, fit_image
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
    """The clip has no audio stream: not a failure, and no feature either."""


Outcome = NDArray[Any] | NoAudio | ClipError
"""What became of one input, or one feature, of one clip."""


class Prepared(NamedTuple):
    """One clip's inputs in the order asked, and what a user should know of it (a line each)."""

    outcomes: list[Outcome]
    notes: tuple[str, ...]


class SharedFile:
    """The file that the last clip came from, kept open: the clips of one long video come one after the other."""

    def __init__(self) -> None:
        self._file: MediaFile | None = None
        self._stamp: tuple[Path, str, int, int] | None = None

    def open(self, path: Path, reader: str) -> MediaFile:
        """The open file, or another in its place. Raises ClipError when it cannot be opened."""
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
) -> Prepared:
    """Decode a clip once and make each input asked of it: arrays of `input.shape` and `dtype_of(input)`.

    `shared` keeps the file open for the next clip. Nothing is raised for a broken clip: its ClipError stands in the
    place of every array it costs. Where no input is asked for, the file is not opened.
    """
    if not inputs:
        return Prepared([], ())
    framed = [each for each in inputs if isinstance(each, FramesInput)]
    heard = len(framed) < len(inputs)
    reader = framed[0].reader.name if framed else DEFAULT_READER
    assert all(each.reader.name == reader for each in framed), "one run has one reader"
    schemes = list(dict.fromkeys(each.sampling for each in framed))
    try:
        if shared is None:
            with MediaFile(path, reader) as file:
                media = file.read(schemes, audio=heard, start=start, end=end)
        else:
            media = shared.open(path, reader).read(schemes, audio=heard, start=start, end=end)
    except ClipError as error:
        return Prepared([error for _ in inputs], ())
    fitted = _Fitted()
    pictures = _draw(media, [each for each in inputs if isinstance(each, ImageInput)])
    outcomes: list[Outcome] = []
    for each in inputs:
        if isinstance(each, FramesInput):
            outcomes.append(_stack(media, each, fitted))
        elif isinstance(each, ImageInput):
            outcomes.append(pictures[each])
        else:
            assert not isinstance(each, ImportedInput), "what was imported is not made here"
            outcomes.append(_heard(media, each))
    return Prepared(outcomes, media.notes)


def dtype_of(taken: AnyInput) -> type[np.uint8 | np.float32]:
    """How an input's values come."""
    return np.uint8 if isinstance(taken, FramesInput | ImageInput) else np.float32


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        member = archives.stat_member(path)
        return (member.size, member.mtime_ns) if member else (0, 0)  # opening it says what is wrong
    return status.st_size, status.st_mtime_ns


def _sound(media: Media) -> Waveform | NoAudio | ClipError:
    if not media.has_audio:
        return NoAudio()
    return media.waveform or media.waveform_error or ClipError("decode", "the audio stream gives no samples")


def _draw(media: Media, inputs: Sequence[ImageInput]) -> dict[ImageInput, Outcome]:
    sound = _sound(media)
    if not isinstance(sound, Waveform):
        return dict.fromkeys(inputs, sound)
    drawn: dict[ImageInput, Outcome] = {}
    for style, size in {(each.style, (each.height, each.width)) for each in inputs}:
        alike = [each for each in inputs if (each.style, each.height, each.width) == (style, *size)]
        names = list(dict.fromkeys(each.representation for each in alike))
        try:
            pictures = render(sound.samples, sound.rate_hz, style=style, size=size, representations=names)
        except ClipError as error:
            drawn.update(dict.fromkeys(alike, error))
        else:
            drawn.update({each: fit_image(pictures[each.representation], each.preprocess) for each in alike})
    return drawn


def _heard(media: Media, wanted: FilterBankInput | SoundInput) -> Outcome:
    sound = _sound(media)
    if not isinstance(sound, Waveform):
        return sound
    try:
        samples = sound.at_rate(wanted.rate_hz).samples
        if isinstance(wanted, FilterBankInput):
            return filter_banks([samples])[0]
        return extracted(wanted.extractor, samples[: round(wanted.seconds * wanted.rate_hz)], wanted.rate_hz)
    except ClipError as error:
        return error


class _Fitted:
    """Frames at the size that backbones take: each frame is resized once per size, whoever asks for it."""

    def __init__(self) -> None:
        self._done: dict[tuple[int, Preprocess], NDArray[np.uint8]] = {}

    def frame(self, rank: int, pixels: NDArray[np.uint8], wanted: Preprocess) -> NDArray[np.uint8]:
        key = (rank, wanted.geometry)
        if key not in self._done:
            self._done[key] = fit_frame(pixels, wanted)
        return self._done[key]


def _stack(media: Media, wanted: FramesInput, fitted: _Fitted) -> Outcome:
    frames = media.by_scheme.get(wanted.sampling)
    if frames is None:
        return media.frames_error or ClipError("decode", "no video frames")
    pixels = frames.distinct
    return np.stack([fitted.frame(rank, pixels[rank], wanted.preprocess) for rank in frames.indices.tolist()])
