"""What rows of a run looked at in some clips, as the page draws it: bars, and maps over pictures."""

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
"""Pixels of a map's side; the browser draws it larger."""
_TILE = 112


@dataclass(frozen=True)
class RowExplanations:
    """Explanations of a row's likeliest class, by method; why there is none."""

    explanations: Mapping[Method, Explanation]
    without: Mapping[Method, str]


def explain_row(run: Run, row: str, cache: Path, clips: Sequence[Clip]) -> RowExplanations:
    """A row of a run on some test clips. What cannot be explained says why: a head without gradients or attention,
    features that are gone from the cache."""
    alone = replace(run, heads={row: run.heads[row]})
    source = ExplanationSource(FeatureSource(cache, run.described["collection"]))
    found: dict[Method, Explanation] = {}
    without: dict[Method, str] = {}
    for method in METHODS:
        try:
            (explained,) = explain_rows(alone, clips, source, method, "predicted")
            found[method] = explained.explanation
        except UsageError as error:
            without[method] = str(error)
    return RowExplanations(found, without)


class HeatmapDrawer:
    """Draws explanations of one clip. Pictures that several rows share are kept once, in `pictures`."""

    def __init__(self, clip: Clip, attended: Mapping[str, tuple[Run, RowExplanations]]) -> None:
        parts = [
            part
            for _, each in attended.values()
            for explanation in each.explanations.values()
            for of_modality in explanation.parts.values()
            for part in of_modality
            if _needs_picture(part)
        ]
        self._pictures = ClipPictures.decode(clip, parts)
        self._attended = attended
        self.pictures: list[str] = []
        self._kept: dict[tuple[str, int], int] = {}

    def draw(self, at: int) -> list[dict[str, Any]]:
        """Of each row, what it looked at in clip number `at` of the explained ones, by method."""
        return [
            {
                method: self._explained(run, each.explanations[method], at)
                if method in each.explanations
                else {"note": each.without[method]}
                for method in METHODS
            }
            for run, each in self._attended.values()
        ]

    def _explained(self, run: Run, explanation: Explanation, at: int) -> dict[str, Any]:
        panels = []
        for modality in ("video", "audio"):
            if modality not in explanation.parts:
                why = explanation.without_map.get(modality)
                panels += [{"kind": "note", "title": modality, "words": why}] if why else []
                continue
            parts = explanation.parts[modality]
            maps = [explanation.heatmap(modality, number, at) for number in range(len(parts))]
            if any(np.isnan(each).any() for each in maps):
                words = "the clip lacks it, or nothing of it reaches the score"
                panels.append({"kind": "note", "title": modality, "words": words})
                continue
            zeros = zero_words(explanation, modality, at)
            for panel in self._panels(modality, parts, maps):
                panels.append({**panel, "words": ", ".join(filter(None, (panel.get("words"), zeros)))})
        return {"class": class_names(run.targets, explanation.classes[at]), "panels": panels}

    def _panels(
        self, modality: str, parts: Sequence[FeatureTokens], maps: Sequence[NDArray[np.float64]]
    ) -> list[dict[str, Any]]:
        single = {part.name: float(each) for part, each in zip(parts, maps, strict=True) if not each.ndim}
        found: list[dict[str, Any]] = []
        if single:
            values = [round(value, 2) for value in single.values()]
            found.append({"kind": "shares", "title": modality, "labels": list(single), "values": values})
        for part, each in zip(parts, maps, strict=True):
            if each.ndim:
                found.append(self._panel(modality, part, each))
        return found

    def _panel(self, modality: str, part: FeatureTokens, each: NDArray[np.float64]) -> dict[str, Any]:
        title = f"{modality}: {part.name}" if part.name else modality
        if not each.max() > 0:
            return {"kind": "note", "title": title, "words": "no cell speaks for this class"}
        words = f"most: {each.max():.1f} times the mean"
        if modality == "video" and each.ndim == 3:
            frames = self._pictures.frames(part)
            if not isinstance(frames, str):
                return {**self._maps_of_frames(part, frames, each), "title": title, "words": words}
        if modality == "audio" and each.ndim > 1:
            grey = self._pictures.sound(part)
            if not isinstance(grey, str):
                length = self._pictures.length(part)
                wide = enlarged(each, part.specs[0].input.kind, (_HEAT, round(_HEAT / length)))[:, :_HEAT]
                shown = [[self._picture(part, 0, grey), heat(_tinted(wide, each.max()))]]
                return {"kind": "maps", "title": title, "words": words, "pictures": shown, "side": SIDE}
        values = [round(float(value), 2) for value in each.reshape(len(each), -1).mean(axis=1)]
        over = "frame" if modality == "video" else "token"
        return {"kind": "course", "title": title, "words": words, "values": values, "over": over}

    def _maps_of_frames(
        self, part: FeatureTokens, frames: NDArray[np.uint8], each: NDArray[np.float64]
    ) -> dict[str, Any]:
        shown = []
        for number in shown_frames(len(frames)).tolist():
            of_frame = enlarged(each[number * len(each) // len(frames)], "frames", (_HEAT, _HEAT))
            address = self._picture(part, number, frames[number])
            shown.append([address, heat(_tinted(of_frame, each.max()))])
        return {"kind": "maps", "pictures": shown, "side": _TILE}

    def _picture(self, part: FeatureTokens, number: int, pixels: NDArray[np.uint8]) -> int:
        """Its number among `pictures`."""
        key = part.name, number
        if key not in self._kept:
            self._kept[key] = len(self.pictures)
            self.pictures.append(picture(pixels, _TILE if pixels.ndim == 3 else None))
        return self._kept[key]


def _needs_picture(part: FeatureTokens) -> bool:
    return part.tokens.ndim > 1


def _tinted(values: NDArray[np.float64], largest: float) -> NDArray[np.uint8]:
    """A map as colours, the more opaque the more relevant, as `clip_pictures.overlay` mixes them. -> (H, W, 4)."""
    strength = np.clip(values / largest, 0, 1)
    colours = mpl.colormaps[COLOURS](strength)
    colours[..., 3] = 0.1 + 0.7 * strength
    return np.rint(255 * colours).astype(np.uint8)
