"""Place and time of each token of a modality."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from avfuse.features.spec import FeatureSpec
from avfuse.stages.fuse.data.modality import Modality, StreamedModality


@dataclass(frozen=True)
class FeatureTokens:
    """One feature's cells: its tokens without CLS and distillation, which have no place."""

    name: str
    """Name of the feature, empty for numbers without features."""
    tokens: NDArray[np.int64]
    """Positions of the cells among the modality's tokens, those of all windows concatenated, in the shape of the
    cells: () for a pooled vector, (T,) for frames, (T, rows, columns) for frames of cells, (rows, columns) for an audio
    image or a filter bank, lowest frequency first; (N,) where the layout is unknown."""
    specs: tuple[FeatureSpec, ...] = ()
    """One per temporal window, in order."""


def feature_tokens(modality: Modality | StreamedModality, windows: Sequence[int]) -> list[FeatureTokens]:
    """The features of a modality, in order. windows: the alternatives that are averaged at test."""
    length = modality.shape.length
    if modality.layout is None:
        return [FeatureTokens("", np.arange(length))]
    starts = [0, *accumulate(modality.layout.tokens_per_feature)]
    features = []
    for number, start in enumerate(starts[:-1]):
        specs = tuple(modality.layout.alternatives[window][number] for window in windows)
        pieces = [start + at * length + _cells(spec) for at, spec in enumerate(specs)]
        tokens = pieces[0] if len(pieces) == 1 else np.concatenate([np.atleast_1d(piece) for piece in pieces])
        features.append(FeatureTokens(specs[0].name, tokens, specs))
    return features


def _cells(spec: FeatureSpec) -> NDArray[np.int64]:
    """Positions of a feature's cells among its own tokens."""
    lead = spec.shape[:-1]
    tokens = np.arange(math.prod(lead)).reshape(lead)
    if spec.output != "tokens" or spec.grid is None:
        return tokens
    cells = tokens[..., tokens.shape[-1] - math.prod(spec.grid) :]
    if spec.input.kind != "clip":
        return cells.reshape(*lead[:-1], *spec.grid)
    placed = time_axis(spec)
    return cells if placed is None else np.moveaxis(cells.reshape(spec.grid), placed[1], 0)


def time_axis(spec: FeatureSpec) -> tuple[tuple[int, ...], int] | None:
    """Shape of a feature's cells and which of its axes is time; None where that is unknown.

    The order of a video network's three axes differs. Frames are square, so time is the axis of another length.
    """
    if spec.output in ("frames", "filter_bank"):
        return spec.shape[:1], 0
    if spec.output != "tokens":
        return None
    if len(spec.shape) == 3:
        return spec.shape[:2], 0
    cells = spec.grid or ()
    if spec.input.kind in ("image", "filter_bank") and len(cells) == 2:
        return cells, 1
    single = [axis for axis, length in enumerate(cells) if cells.count(length) == 1]
    if spec.input.kind == "clip" and len(cells) == 3 and len(single) == 1:
        return cells, single[0]
    return None
