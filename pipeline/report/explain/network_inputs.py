"""What networks were given of a clip, as pictures that maps can be laid over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError
from avfuse.features.inputs.filter_bank import FRAMES, MEL_BANDS
from avfuse.features.inputs.prepare import Outcome, prepare
from avfuse.features.media import DEFAULT_READER
from avfuse.features.spec import AnyInput, FilterBankInput, FramesInput, ImageInput
from avfuse.stages.fuse.data.audio_masking import AUDIO_GRIDS, count_valid_frames
from avfuse.stages.fuse.data.token_layout import FeatureTokens

SHOWN_FRAMES = 8
SIDE = 224
"""Pixels: maps over audio images are as large as what networks see."""
COLOURS = "plasma"
"""Of maps: they rise evenly in lightness, so that colour-blind eyes tell the same."""

Pixels = NDArray[np.uint8]
Map = NDArray[np.float64]


@dataclass(frozen=True)
class ClipPictures:
    """What networks were given of a clip: frames uint8 (T, H, W, 3) and sounds (filter banks float32 (1024, 128), audio
    images uint8 (H, W, 3)) by what they are; or what went wrong, in words."""

    clip: Clip
    inputs: Mapping[AnyInput, Outcome]

    @classmethod
    def of(cls, clip: Clip, parts: Sequence[FeatureTokens]) -> "ClipPictures":
        """Of the features that have cells in a picture."""
        taken = {spec.input for part in parts for spec in part.specs if part.tokens.ndim}
        drawn = sorted((each for each in taken if is_drawn(each)), key=_reader)
        outcomes: dict[AnyInput, Outcome] = {}
        for _, group in groupby(drawn, _reader):
            alike = list(group)
            outcomes |= zip(alike, prepare(clip.path, clip.start, clip.end, alike).outcomes, strict=True)
        return cls(clip, outcomes)

    def frames(self, part: FeatureTokens) -> Pixels | str:
        """All frames that a feature was made of, window after window."""
        every = [self._picture(spec.input) for spec in part.specs]
        if problem := next((each for each in every if isinstance(each, str)), ""):
            return problem
        return np.concatenate(every) if every else "no feature stands behind these numbers"

    def sound(self, part: FeatureTokens) -> Pixels | str:
        """The picture of sound that a feature was made of, grey, uint8 (224, 224); a filter bank without its padding,
        with low frequencies at the bottom and time to the right."""
        if not part.specs:
            return "no feature stands behind these numbers"
        picture = self._picture(part.specs[0].input)
        if isinstance(picture, str):
            return picture
        if isinstance(part.specs[0].input, FilterBankInput):
            return _resized(_grey_bank(picture[: round(self.length(part) * len(picture))]))
        return _resized(grey_of(picture))

    def length(self, part: FeatureTokens) -> float:
        """The share of a filter bank that is the clip's own, and not padding; 1 of other pictures."""
        bank = self._picture(part.specs[0].input)
        if isinstance(bank, str) or part.specs[0].input.kind != "filter_bank":
            return 1.0
        return max(1, int(count_valid_frames(torch.from_numpy(bank)[None]))) / len(bank)

    def _picture(self, taken: AnyInput) -> NDArray[Any] | str:
        if taken not in self.inputs:
            return "what this feature was made from is not a picture"
        outcome = self.inputs[taken]
        if isinstance(outcome, np.ndarray):
            return outcome
        return str(outcome) if isinstance(outcome, ClipError) else "the clip has no sound"


def shown_of(count: int) -> NDArray[np.int64]:
    """Which of so many frames are shown: the middles of eight equal stretches."""
    return ((np.arange(SHOWN_FRAMES) + 0.5) * count / SHOWN_FRAMES).astype(np.int64)


def is_drawn(taken: AnyInput) -> bool:
    """Whether what a network takes is a picture that maps can be laid over."""
    return isinstance(taken, FramesInput | ImageInput | FilterBankInput)


def _reader(taken: AnyInput) -> str:
    """Who decodes it: what one reader decodes is decoded together."""
    return taken.reader.name if isinstance(taken, FramesInput) else DEFAULT_READER


def enlarged(cells: Map, kind: str, size: tuple[int, int] = (SIDE, SIDE)) -> Map:
    """A map (rows, columns) at (height, width), linear between the middles of its cells and flat outside them.

    kind: of the feature's input. Rows of a `filter_bank` begin at the lowest frequency, which comes to the bottom, and
    cells of a known grid lie where its patches do (`AudioGrid`); all others are of equal size and begin at the top.
    """
    rows, columns = (middles(cells.shape, axis, kind) for axis in (0, 1))
    height, width = size
    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    wide = np.stack([np.interp(across, columns, row) for row in cells])
    tall = np.stack([np.interp(down, rows, column) for column in wide.T], axis=1)
    return tall[::-1] if kind == "filter_bank" else tall


def middles(shape: tuple[int, ...], axis: int, kind: str) -> NDArray[np.float64]:
    """Of cells along an axis, as shares of its length."""
    count = shape[axis]
    if kind == "filter_bank":
        for grid in AUDIO_GRIDS:
            if grid.cells == shape:
                return (np.arange(count) * grid.stride + grid.patch / 2) / (MEL_BANDS, FRAMES)[axis]  # type: ignore[no-any-return]
    return (np.arange(count) + 0.5) / count  # type: ignore[no-any-return]


def overlay(grey: Pixels, heat: Map, largest: float) -> Pixels:
    """A map (H, W) laid over a grey picture (H, W), the more opaque the more relevant. Colours go from 0 to `largest`.
    -> uint8 (H, W, 3)."""
    strength = heat / largest if largest > 0 else heat
    colour = mpl.colormaps[COLOURS](strength)[..., :3] * 255
    opacity = (0.1 + 0.7 * strength)[..., None]
    mixed: Pixels = np.rint((1 - opacity) * grey[..., None] + opacity * colour).astype(np.uint8)
    return mixed


def grey_of(picture: Pixels) -> Pixels:
    """(H, W, 3) -> (H, W)."""
    return np.asarray(Image.fromarray(picture).convert("L"))


def _grey_bank(bank: NDArray[np.float32]) -> Pixels:
    """(1024, 128) -> (128, 1024), from the quietest to the loudest value, low frequencies at the bottom."""
    low, high = float(bank.min()), float(bank.max())
    return np.rint(255 * (bank.T[::-1] - low) / max(high - low, 1e-6)).astype(np.uint8)


def _resized(grey: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(np.ascontiguousarray(grey)).resize((SIDE, SIDE), Image.Resampling.BOX))
