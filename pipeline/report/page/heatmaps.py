"""Heatmaps of rows for the page: bars, and maps over pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.pipeline.report.explain.figure import zero_words
from avfuse.pipeline.report.explain.network_inputs import COLOURS, SIDE, ClipPictures, enlarged, shown_frames
from avfuse.pipeline.report.explain.rows import ExplanationSource, class_names
from avfuse.pipeline.report.explain.run_clips import explain_rows
from avfuse.pipeline.report.page.media import heat, picture
from avfuse.stages.fuse.analysis.attribution import METHODS, Explanation, Method
from avfuse.stages.fuse.data.token_layout import FeatureTokens
from avfuse.stages.fuse.runs.predict import FeatureSource
from avfuse.stages.fuse.runs.run_folder import Run

_HEAT = 56
"""Side of a map in pixels; the browser enlarges it."""
_TILE = 112


@dataclass(frozen=True)
class RowExplanations:
    """Explanations of a row's likeliest class."""

    explanations: Mapping[Method, Explanation]
    without: Mapping[Method, str]  # reasons why methods gave none


def explain_row(run: Run, row: str, cache: Path, clips: Sequence[Clip]) -> RowExplanations:
    """A row of a run on some test clips. What cannot be explained says why: a head without gradients or attention,
    features that are gone from the cache."""
    alone = replace(run, heads={row: run.heads[row]})
    source = ExplanationSource(FeatureSource(cache, run.described["collection"]))
    explanations: dict[Method, Explanation] = {}
    without: dict[Method, str] = {}
    for method in METHODS:
        try:
            (explained,) = explain_rows(alone, clips, source, method, "predicted")
            explanations[method] = explained.explanation
        except UsageError as error:
            without[method] = str(error)
    return RowExplanations(explanations, without)


class HeatmapDrawer:
    """Draws explanations of one clip. Pictures that rows share are encoded once, in `pictures`."""

    def __init__(self, clip: Clip, explained: Mapping[str, tuple[Run, RowExplanations]]) -> None:
        parts = [
            part
            for _, row in explained.values()
            for explanation in row.explanations.values()
            for of_modality in explanation.parts.values()
            for part in of_modality
            if _needs_picture(part)
        ]
        self._pictures = ClipPictures.decode(clip, parts)
        self._explained = explained
        self.pictures: list[str] = []
        self._kept: dict[tuple[str, int], int] = {}

    def draw(self, at: int) -> list[dict[str, Any]]:
        """Panels per row and method for clip number `at` of the explained ones."""
        return [
            {
                method: self._explanation_json(run, row.explanations[method], at)
                if method in row.explanations
                else {"note": row.without[method]}
                for method in METHODS
            }
            for run, row in self._explained.values()
        ]

    def _explanation_json(self, run: Run, explanation: Explanation, at: int) -> dict[str, Any]:
        panels = []
        for modality in ("video", "audio"):
            if modality not in explanation.parts:
                why = explanation.without_map.get(modality)
                panels += [{"kind": "note", "title": modality, "words": why}] if why else []
                continue
            parts = explanation.parts[modality]
            maps = [explanation.heatmap(modality, number, at) for number in range(len(parts))]
            if any(np.isnan(values).any() for values in maps):
                words = "the clip lacks it, or none of it reaches the score"
                panels.append({"kind": "note", "title": modality, "words": words})
                continue
            zeros = zero_words(explanation, modality, at)
            for panel in self._panels(modality, parts, maps):
                panels.append({**panel, "words": ", ".join(filter(None, (panel.get("words"), zeros)))})
        return {"class": class_names(run.targets, explanation.classes[at]), "panels": panels}

    def _panels(
        self, modality: str, parts: Sequence[FeatureTokens], maps: Sequence[NDArray[np.float64]]
    ) -> list[dict[str, Any]]:
        single = {part.name: float(values) for part, values in zip(parts, maps, strict=True) if not values.ndim}
        panels: list[dict[str, Any]] = []
        if single:
            shares = [round(value, 2) for value in single.values()]
            panels.append({"kind": "shares", "title": modality, "labels": list(single), "values": shares})
        for part, values in zip(parts, maps, strict=True):
            if values.ndim:
                panels.append(self._panel(modality, part, values))
        return panels

    def _panel(self, modality: str, part: FeatureTokens, heat_values: NDArray[np.float64]) -> dict[str, Any]:
        title = f"{modality}: {part.name}" if part.name else modality
        if not heat_values.max() > 0:
            return {"kind": "note", "title": title, "words": "no token supports this class"}
        words = f"most: {heat_values.max():.1f} times the mean"
        if modality == "video" and heat_values.ndim == 3:
            frames = self._pictures.frames(part)
            if not isinstance(frames, str):
                return {**self._maps_of_frames(part, frames, heat_values), "title": title, "words": words}
        if modality == "audio" and heat_values.ndim > 1:
            grey = self._pictures.sound(part)
            if not isinstance(grey, str):
                length = self._pictures.length(part)
                wide = enlarged(heat_values, part.specs[0].input.kind, (_HEAT, round(_HEAT / length)))[:, :_HEAT]
                shown = [[self._picture(part, 0, grey), heat(_tinted(wide, heat_values.max()))]]
                return {"kind": "maps", "title": title, "words": words, "pictures": shown, "side": SIDE}
        values = [round(float(value), 2) for value in heat_values.reshape(len(heat_values), -1).mean(axis=1)]
        over = "frame" if modality == "video" else "token"
        return {"kind": "course", "title": title, "words": words, "values": values, "over": over}

    def _maps_of_frames(
        self, part: FeatureTokens, frames: NDArray[np.uint8], heat_values: NDArray[np.float64]
    ) -> dict[str, Any]:
        shown = []
        for number in shown_frames(len(frames)).tolist():
            of_frame = enlarged(heat_values[number * len(heat_values) // len(frames)], "frames", (_HEAT, _HEAT))
            address = self._picture(part, number, frames[number])
            shown.append([address, heat(_tinted(of_frame, heat_values.max()))])
        return {"kind": "maps", "pictures": shown, "side": _TILE}

    def _picture(self, part: FeatureTokens, number: int, pixels: NDArray[np.uint8]) -> int:
        """Index of a picture in `pictures`."""
        key = part.name, number
        if key not in self._kept:
            self._kept[key] = len(self.pictures)
            self.pictures.append(picture(pixels, _TILE if pixels.ndim == 3 else None))
        return self._kept[key]


def _needs_picture(part: FeatureTokens) -> bool:
    return part.tokens.ndim > 1


def _tinted(values: NDArray[np.float64], largest: float) -> NDArray[np.uint8]:
    """A map as RGBA uint8 (H, W, 4), opaque where relevant, blended as by `network_inputs.overlay`."""
    strength = np.clip(values / largest, 0, 1)
    colours = mpl.colormaps[COLOURS](strength)
    colours[..., 3] = 0.1 + 0.7 * strength
    return np.rint(255 * colours).astype(np.uint8)
