"""Rows of a run explained on any clips: its test clips, media files, or those of the page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.clips import Clip
from avfuse.features.spec import FeatureSpec
from avfuse.pipeline.report.explain.figure import ExplainedRow, clip_page
from avfuse.pipeline.report.explain.network_inputs import ClipPictures
from avfuse.stages.fuse.analysis.attribution import Explanation, Method, explain_clips
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.data.token_layout import FeatureTokens
from avfuse.stages.fuse.runs.predict import FeatureSource
from avfuse.stages.fuse.runs.run_folder import Run

NUMBERS = "explanations.csv"
"""The file of `explanation_table`."""


@dataclass(frozen=True)
class ExplanationSource:
    """Source of clips' cached features, and of the pictures that maps are laid over."""

    features: FeatureSource
    inputs: Sequence[FeatureSpec] = ()
    """Inputs of networks that are cached too (`cached_inputs`); without them media are decoded again."""
    device: str = "cpu"

    def pictures(self, clip: Clip, explanations: Iterable[Explanation]) -> ClipPictures:
        if self.inputs:
            return ClipPictures.from_cache(clip, self.features, self.inputs)
        return ClipPictures.decode(clip, mapped_features(explanations))


@dataclass(frozen=True)
class RowExplanation:
    """A row explained on some clips."""

    row: str
    targets: Targets
    explanation: Explanation
    fallback: str | None = None
    """Reason for Grad-CAM where attention was requested."""

    def on_page(self, clip: int, verdict: str) -> ExplainedRow:
        """The row for `clip_page`. verdict: how the explained class relates to the clip."""
        classes = class_names(self.targets, self.explanation.classes[clip])
        probability = float(np.prod(self.explanation.probabilities[clip]))
        return ExplainedRow(self.row, classes, probability, verdict, self.explanation)


def explain(
    run: Run,
    rows: Iterable[str],
    clips: Sequence[Clip],
    source: ExplanationSource,
    method: Method = "grad-cam",
    classes: NDArray[np.int64] | None = None,
) -> list[RowExplanation]:
    """Explain rows of a run on clips whose features are cached.

    Args:
        classes: int64 (clips, targets), the classes to explain; by default the likeliest of each row.

    Raises:
        UsageError: as `explain_clips`.
    """
    return [
        RowExplanation(
            row, run.targets, *explain_clips(run, row, clips, source.features, source.device, method, classes)
        )
        for row in rows
    ]


def write_page(
    file: Path, pictures: ClipPictures, title: str, label: str, rows: Sequence[ExplainedRow], clip: int
) -> None:
    """Write one clip's page as a PNG. label: its true classes, or nothing. clip: its number among the explained."""
    named = replace(pictures, clip=replace(pictures.clip, clip_id=title))
    clip_page(named, label, rows, clip).savefig(file)


def mapped_features(explanations: Iterable[Explanation]) -> list[FeatureTokens]:
    """The features that have maps."""
    return [feature for explanation in explanations for features in explanation.parts.values() for feature in features]


def class_names(targets: Targets, classes: NDArray[np.int64]) -> str:
    """One class per target, such as `take + plate`."""
    return " + ".join(target.classes[number] for target, number in zip(targets, classes.tolist(), strict=True))


def explanation_table(
    targets: Targets, row: str, explanation: Explanation, clips: Sequence[Mapping[str, object]]
) -> pd.DataFrame:
    """A line per cell of each clip and feature.

    `relevance` is in multiples of the mean over the cells of its modality; `frame`, `line` and `column` locate the cell
    where it has such a place; with temporal windows, each has a feature name and frames of its own.

    Args:
        clips: for each clip, the columns that identify it.
    """
    tables = []
    for modality, features in explanation.parts.items():
        for number, feature in enumerate(features):
            cells = _locate_cells(modality, feature)
            for clip, identity in enumerate(clips):
                facts = {
                    "row": row,
                    "method": explanation.method,
                    **identity,
                    "class": class_names(targets, explanation.classes[clip]),
                    "probability": float(np.prod(explanation.probabilities[clip])),
                    "modality": modality,
                }
                relevance = explanation.heatmap(modality, number, clip).ravel()
                tables.append(pd.DataFrame({**facts, **cells, "relevance": relevance}))
    return pd.concat(tables, ignore_index=True)


_AXES = {("video", 1): ("frame",)}
_OTHER_AXES = {0: (), 1: ("column",), 2: ("line", "column"), 3: ("frame", "line", "column")}


def _locate_cells(modality: str, feature: FeatureTokens) -> dict[str, NDArray[np.generic]]:
    """`feature`, `frame`, `line`, `column` of all cells, in order; missing where a cell has none."""
    shape = feature.tokens.shape
    windows = max(1, len(feature.specs))
    window_shape = (shape[0] // windows, *shape[1:]) if shape else shape
    names = np.repeat([spec.name for spec in feature.specs] or [feature.name], feature.tokens.size // windows)
    nowhere = np.full(feature.tokens.size, pd.NA, dtype=object)
    axes = _AXES.get((modality, len(window_shape)), _OTHER_AXES[len(window_shape)])
    cells = {
        name: np.tile(indices.ravel(), windows) for name, indices in zip(axes, np.indices(window_shape), strict=True)
    }
    return {"feature": names, **{name: cells.get(name, nowhere) for name in ("frame", "line", "column")}}
