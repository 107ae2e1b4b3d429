"""Inputs of networks as pictures that maps can be laid over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self

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
from avfuse.features.spec import AnyInput, FeatureSpec, FilterBankInput, FramesInput, ImageInput
from avfuse.stages.fuse.data.audio_masking import AUDIO_GRIDS, count_valid_frames
from avfuse.stages.fuse.data.token_layout import FeatureTokens
from avfuse.stages.fuse.runs.predict import FeatureSource

SHOWN_FRAMES = 8
SIDE = 224
"""Pixels of a map over an audio image, the size that networks see."""
COLOURS = "plasma"
"""The colour map: its lightness rises evenly, so that colour-blind readers see the same."""

Pixels = NDArray[np.uint8]
Map = NDArray[np.float64]


@dataclass(frozen=True)
class ClipPictures:
    """Inputs of networks of one clip, as pictures."""

    clip: Clip
    inputs: Mapping[AnyInput, Outcome]
    """Frames uint8 (T, H, W, 3), audio images uint8 (H, W, 3), filter banks float32 (1024, 128), or an error."""

    @classmethod
    def decode(cls, clip: Clip, features: Sequence[FeatureTokens]) -> Self:
        """Decode the inputs of the features that have cells in a picture, once per reader."""
        inputs = {spec.input for feature in features for spec in feature.specs if feature.tokens.ndim}
        outcomes: dict[AnyInput, Outcome] = {}
        for _, group in groupby(sorted(filter(is_picture, inputs), key=_reader), _reader):
            of_reader = list(group)
            outcomes |= zip(of_reader, prepare(clip.path, clip.start, clip.end, of_reader).outcomes, strict=True)
        return cls(clip, outcomes)

    @classmethod
    def from_cache(cls, clip: Clip, source: FeatureSource, specs: Sequence[FeatureSpec]) -> Self:
        """Read inputs that were cached as features of their own. specs: as `cached_inputs`."""
        outcomes: dict[AnyInput, Outcome] = {}
        for spec in specs:
            loaded = source.store(spec).load([clip])
            error = ClipError("decode", loaded.missing.get(clip.clip_id, ""))
            outcomes[spec.input] = loaded.data[0] if loaded.present[0] else error
        return cls(clip, outcomes)

    def frames(self, part: FeatureTokens) -> Pixels | str:
        """All frames that a feature was computed from, window after window; or why there are none."""
        windows = [self._picture(spec.input) for spec in part.specs]
        if problem := next((window for window in windows if isinstance(window, str)), ""):
            return problem
        return np.concatenate(windows) if windows else "no feature stands behind these numbers"

    def sound(self, part: FeatureTokens) -> Pixels | str:
        """The grey picture of sound that a feature was computed from, uint8 (224, 224), or why there is none. A filter
        bank is without its padding, low frequencies at the bottom and time to the right."""
        if not part.specs:
            return "no feature stands behind these numbers"
        picture = self._picture(part.specs[0].input)
        if isinstance(picture, str):
            return picture
        if isinstance(part.specs[0].input, FilterBankInput):
            return _resized(_grey_bank(picture[: round(self.length(part) * len(picture))]))
        return _resized(grey_of(picture))

    def length(self, part: FeatureTokens) -> float:
        """The share of a filter bank that is not padding; 1 for other pictures."""
        bank = self._picture(part.specs[0].input)
        if isinstance(bank, str) or part.specs[0].input.kind != "filter_bank":
            return 1.0
        return max(1, int(count_valid_frames(torch.from_numpy(bank)[None]))) / len(bank)

    def _picture(self, network_input: AnyInput) -> NDArray[Any] | str:
        if network_input not in self.inputs:
            return "what this feature was made from is not a picture"
        outcome = self.inputs[network_input]
        if isinstance(outcome, np.ndarray):
            return outcome
        return str(outcome) if isinstance(outcome, ClipError) else "the clip has no sound"


def cached_inputs(specs: Sequence[FeatureSpec]) -> list[FeatureSpec]:
    """The networks' inputs that maps can be laid over, as features of their own, so that one decode gives both. Frames
    are cached as one picture of several."""
    inputs = dict.fromkeys(spec.input for spec in specs if isinstance(spec.input, FramesInput) or len(spec.shape) > 1)
    return [
        FeatureSpec(
            name=f"shown:{network_input.kind}",
            input=network_input,
            model=None,
            output="filter_bank" if isinstance(network_input, FilterBankInput) else "image",
            shape=network_input.shape,
            dtype="float32" if isinstance(network_input, FilterBankInput) else "uint8",
        )
        for network_input in inputs
        if is_picture(network_input)
    ]


def shown_frames(count: int) -> NDArray[np.int64]:
    """Indices of the frames shown: the middles of eight equal spans."""
    return ((np.arange(SHOWN_FRAMES) + 0.5) * count / SHOWN_FRAMES).astype(np.int64)


def is_picture(network_input: AnyInput) -> bool:
    """Whether a network's input is a picture that maps can be laid over."""
    return isinstance(network_input, FramesInput | ImageInput | FilterBankInput)


def _reader(network_input: AnyInput) -> str:
    return network_input.reader.name if isinstance(network_input, FramesInput) else DEFAULT_READER


def enlarged(cells: Map, kind: str, size: tuple[int, int] = (SIDE, SIDE)) -> Map:
    """A map (rows, columns) at (height, width), linear between the middles of its cells and flat outside them.

    kind: of the feature's input. Rows of a `filter_bank` begin at the lowest frequency, drawn at the bottom, and
    cells of a known grid are placed like its patches (`AudioGrid`); all others have equal size and begin at the top.
    """
    rows, columns = (middles(cells.shape, axis, kind) for axis in (0, 1))
    height, width = size
    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    wide = np.stack([np.interp(across, columns, row) for row in cells])
    tall = np.stack([np.interp(down, rows, column) for column in wide.T], axis=1)
    return tall[::-1] if kind == "filter_bank" else tall


def middles(shape: tuple[int, ...], axis: int, kind: str) -> NDArray[np.float64]:
    """Middles of cells along an axis, as shares of its length."""
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
