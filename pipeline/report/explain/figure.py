"""Pictures of explanations: maps of heads over a clip's frames and sound, a band per head."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from avfuse.pipeline.report.explain.network_inputs import (
    COLOURS,
    SHOWN_FRAMES,
    SIDE,
    ClipPictures,
    Map,
    Pixels,
    enlarged,
    grey_of,
    middles,
    overlay,
    shown_frames,
)
from avfuse.stages.fuse.analysis.attribution import Explanation, Method
from avfuse.stages.fuse.data.token_layout import FeatureTokens

_DPI = 100
_TILE, _GAP, _MARGIN, _TITLE, _LABEL = 128, 4, 24, 30, 40
_STRIP = SHOWN_FRAMES * (_TILE + _GAP) - _GAP
_BAND = _TITLE + SIDE + _LABEL
_HEADER, _AXIS = 44, 52
_SCALE = 116
_POINTS_PER_LETTER = 0.56  # of a font's size, on average
_INK, _FAINT = "#202428", "#6b7278"
_BAR, _SHOWN_BAR = "#9aa5b1", "#00336f"
_METHODS: Mapping[Method, str] = {"grad-cam": "Grad-CAM", "attention": "attention rollout"}
_NOTHING = "The map is zero everywhere: no token supports this class."


class ExplainedRow(NamedTuple):
    """A row of a run on one clip."""

    row: str
    guess: str
    """The explained class."""
    probability: float
    verdict: str
    """Relation of the class to the clip, such as `right`; or empty."""
    explanation: Explanation


def clip_page(pictures: ClipPictures, label: str, rows: Sequence[ExplainedRow], clip: int) -> Figure:
    """Draw eight frames of a clip, and a band per row: a map over each frame, the relevance of every frame below, and
    beside them the sound with its map (AVT's Figures 2, 5 and 6). Relevance is in multiples of the mean over cells.

    Args:
        pictures: of the clip.
        label: its true classes, or nothing.
        rows: from the top.
        clip: its number among the explained clips.
    """
    panels = max(1, *(_sound_panels(row.explanation) for row in rows))
    bands = [max(1, len(row.explanation.parts.get("video", []))) for row in rows]
    frames = _first_frames(pictures, rows)
    above = _TILE + 2 * _GAP if frames is not None else 0
    width = 2 * _MARGIN + _AXIS + _STRIP + panels * (_AXIS + SIDE)
    height = _HEADER + max(above, _SCALE) + sum(bands) * _BAND
    page = _Page(width, height)
    left, right = _MARGIN + _AXIS, _MARGIN + _AXIS + _STRIP + _AXIS
    page.text(left, 22, ": ".join(filter(None, (pictures.clip.clip_id, label))), _STRIP, size=13, weight="bold")
    if frames is not None:
        _draw_strip(page, (left, _HEADER), [_tile(frame) for frame in frames])
    _draw_scale(page, (right, 22), [row.explanation for row in rows])
    top = _HEADER + max(above, _SCALE)
    for row, count in zip(rows, bands, strict=True):
        _draw_title(page, (left, top + 18), row, clip, {other.explanation.method for other in rows})
        for number, part in enumerate(row.explanation.parts.get("video", [])):
            heat = row.explanation.heatmap("video", number, clip)
            _draw_video(page, (left, top + number * _BAND + _TITLE), pictures.frames(part), heat, part)
        if "video" not in row.explanation.parts:
            page.note((left, top + _TITLE, _STRIP, SIDE), _why(row.explanation, "video"))
        _draw_sounds(page, (right, top + _TITLE), pictures, row.explanation, clip)
        top += count * _BAND
    return page.figure


class _Page:
    """A figure with positions in pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        place = left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height
        return self.figure.add_axes(place)

    def picture(self, left: float, top: float, pixels: Pixels) -> Axes:
        """Draw pixels at their own size."""
        axes = self.axes(left, top, pixels.shape[1], pixels.shape[0])
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="none", aspect="auto")
        axes.set_axis_off()
        return axes

    def text(
        self, x: float, y: float, words: str, room: float, size: int = 9, colour: str = _INK, **options: Any
    ) -> None:
        """Write one line, cut at `room` pixels."""
        letters = int(room / (size * _POINTS_PER_LETTER * _DPI / 72))
        words = words if len(words) <= letters else f"{words[: letters - 3]}..."
        self.figure.text(
            x / self.width, 1 - y / self.height, words, fontsize=size, color=colour, va="center", **options
        )

    def note(self, box: tuple[float, float, float, float], words: str) -> None:
        """Write words in the place of a missing picture."""
        left, top, width, height = box
        axes = self.axes(left, top, width, height)
        axes.set(xticks=[], yticks=[], facecolor="#f3f4f5")
        axes.spines[:].set_visible(False)
        lines = textwrap.fill(words, max(10, int(width / 8)))
        axes.text(0.5, 0.5, lines, ha="center", va="center", fontsize=9, color=_FAINT, transform=axes.transAxes)


def _first_frames(pictures: ClipPictures, rows: Sequence[ExplainedRow]) -> Pixels | None:
    """Eight frames uint8 (8, H, W, 3) of the first feature computed from frames."""
    for row in rows:
        for part in row.explanation.parts.get("video", []):
            if not isinstance(frames := pictures.frames(part), str):
                return frames[shown_frames(len(frames))]
    return None


def zero_words(explanation: Explanation, modality: str, clip: int) -> str:
    """Number of seeds with a map of zeros, in words, if some have one and others do not."""
    zeros = explanation.zeros(modality, clip)
    return f"zero for {zeros} of {explanation.heads} seeds" if 0 < zeros < explanation.heads else ""


def _draw_title(page: _Page, place: tuple[float, float], shown: ExplainedRow, clip: int, methods: set[Method]) -> None:
    verdict = f" ({shown.verdict})" if shown.verdict else ""
    method = f", by {_METHODS[shown.explanation.method]}" if len(methods) > 1 else ""
    counts = {modality: zero_words(shown.explanation, modality, clip) for modality in shown.explanation.maps}
    zeros = "".join(f"; {modality} map {words}" for modality, words in counts.items() if words)
    title = f"{shown.row}: {shown.guess}, {100 * shown.probability:.0f} %{verdict}{method}{zeros}"
    page.text(*place, title, _STRIP, size=11)


def _draw_scale(page: _Page, place: tuple[float, float], explanations: Sequence[Explanation]) -> None:
    """Draw the legend: the methods, the unit of relevance, and the colour scale where a map has colours."""
    left, top = place
    methods = {explanation.method for explanation in explanations}
    named = ", ".join(words for method, words in _METHODS.items() if method in methods)
    page.text(left, top, named, SIDE, size=9, weight="bold")
    below = top + 20
    if any(map(_has_colours, explanations)):
        bar = page.figure.colorbar(
            ScalarMappable(cmap=COLOURS),
            cax=page.axes(left, below, SIDE, 12),
            ticks=[0, 1],
            orientation="horizontal",
        )
        bar.ax.set_xticklabels(["0", "each map's largest"], fontsize=8)
        zero, largest = bar.ax.get_xticklabels()
        zero.set_horizontalalignment("left")
        largest.set_horizontalalignment("right")
        bar.outline.set_visible(False)  # type: ignore[operator]
        below += 46
    page.text(left, below, "relevance: 1 is the mean over", SIDE, colour=_FAINT)
    page.text(left, below + 16, "the cells of a modality", SIDE, colour=_FAINT)


def _has_colours(explanation: Explanation) -> bool:
    """Whether any map lies over frames or sound."""
    video, audio = (explanation.parts.get(modality, []) for modality in ("video", "audio"))
    return any(part.tokens.ndim == 3 for part in video) or any(part.tokens.ndim for part in audio)


def _draw_strip(page: _Page, place: tuple[float, float], tiles: Sequence[Pixels]) -> None:
    left, top = place
    for number, tile in enumerate(tiles):
        page.picture(left + number * (_TILE + _GAP), top, tile)


def _draw_video(page: _Page, place: tuple[float, float], frames: Pixels | str, heat: Map, part: FeatureTokens) -> None:
    """Draw maps over the eight frames where frames have cells, and below them the relevance of every frame."""
    left, top = place
    if np.isnan(heat).any():
        page.note((left, top, _STRIP, SIDE), "The clip has no picture, or nothing of it reaches the score.")
        return
    if not heat.any():
        page.note((left, top, _STRIP, SIDE), _NOTHING)
        return
    above = 0
    marked: list[int] = []
    if isinstance(frames, str):
        page.note((left, top, _STRIP, _TILE), frames)
        above = _TILE
    else:
        chosen = shown_frames(len(frames))
        marked = (chosen * len(heat) // len(frames)).tolist() if _is_in_time(part) else []
        if heat.ndim == 3:
            grey = [grey_of(_tile(frames[frame])) for frame in chosen]
            maps = [enlarged(heat[step], "frames", (_TILE, _TILE)) for step in marked]
            _draw_strip(page, place, [overlay(*pair, heat.max()) for pair in zip(grey, maps, strict=True)])
            above = _TILE
    _draw_steps(page, (left, top + above), SIDE - above, heat, part, marked)


def _draw_steps(
    page: _Page, place: tuple[float, float], height: int, heat: Map, part: FeatureTokens, marked: Sequence[int]
) -> None:
    """Draw bars on the time axis of the frames above, those at `marked` dark. Cells of a frame are averaged."""
    left, top = place
    relevance = heat.reshape(len(heat), -1).mean(axis=1)
    axes = page.axes(left, top + 14, _STRIP, height - 14)
    _bars(axes, relevance, [_SHOWN_BAR if number in marked else _BAR for number in range(len(relevance))])
    windows = len(part.specs)
    if windows > 1:
        axes.vlines(np.arange(1, windows) / windows, 0, 1, colors=_INK, linewidth=0.8, transform=axes.transAxes)
        for number in range(windows):
            words = f"window {number + 1}"
            axes.text((number + 0.5) / windows, 1, words, ha="center", fontsize=8, transform=axes.transAxes)
    what = _steps(part, len(relevance))
    words = f"relevance of {what}" + ("; dark: those above" if 0 < len(set(marked)) < len(relevance) else "")
    largest = f"; {_largest(heat)} over {part.name}" if heat.ndim == 3 else f"; {part.name}"
    page.text(left, top + height + 16, words + largest, _STRIP, colour=_FAINT)


def _is_in_time(part: FeatureTokens) -> bool:
    """Whether the first axis of a video feature's cells is time."""
    return part.tokens.ndim == 3 or all(spec.output != "tokens" for spec in part.specs)


def _steps(part: FeatureTokens, count: int) -> str:
    if not _is_in_time(part):
        return f"each of {count} tokens, in their order"
    if part.tokens.ndim == 1 and part.specs and all(spec.output == "pooled" for spec in part.specs):
        return f"each of {count} windows"
    frames = sum(spec.input.shape[0] for spec in part.specs) or count
    return f"each of {count} frames" if frames == count else f"each of {count} steps of {frames // count} frames"


def _draw_sounds(
    page: _Page, place: tuple[float, float], pictures: ClipPictures, explanation: Explanation, clip: int
) -> None:
    left, top = place
    if "audio" not in explanation.parts:
        page.note((left, top, SIDE, SIDE), _why(explanation, "audio"))
        return
    parts = explanation.parts["audio"]
    maps = [explanation.heatmap("audio", number, clip) for number in range(len(parts))]
    if any(np.isnan(heat).any() for heat in maps):
        page.note((left, top, SIDE, SIDE), "The clip has no sound, or nothing of it reaches the score.")
        return
    vectors = {part.name: float(heat) for part, heat in zip(parts, maps, strict=True) if not heat.ndim}
    if vectors:
        _draw_vector_bars(page, (left, top), vectors)
        left += SIDE + _AXIS
    for part, heat in zip(parts, maps, strict=True):
        if heat.ndim:
            _draw_sound(page, (left, top), pictures, part, heat)
            left += SIDE + _AXIS


def _draw_sound(
    page: _Page, place: tuple[float, float], pictures: ClipPictures, part: FeatureTokens, heat: Map
) -> None:
    """Draw the map over its picture, along time alone where it has no other axis; without a picture a bar per token."""
    left, top = place
    grey = pictures.sound(part)
    kind = part.specs[0].input.kind if part.specs else ""
    if isinstance(grey, str):
        _bars(page.axes(left, top, SIDE, SIDE), heat.ravel(), [_BAR] * heat.size)
        page.text(left, top + SIDE + 14, f"tokens in order; {grey}", SIDE + _AXIS, colour=_FAINT)
        return
    cells, end = np.atleast_2d(heat), pictures.length(part)
    heated = enlarged(cells, kind, (SIDE, round(SIDE / end)))[:, :SIDE]
    supported = bool(heat.any())
    plain = np.repeat(grey[..., None], 3, axis=2)
    axes = page.picture(left, top, overlay(grey, heated, heat.max()) if supported else plain)
    words = _largest(heat)
    if not supported:
        box = {"boxstyle": "round,pad=0.6", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
        lines = textwrap.fill(_NOTHING, 26)
        axes.text(SIDE / 2, SIDE / 2, lines, ha="center", va="center", fontsize=8, color=_INK, bbox=box)
        words = ""
    if kind == "filter_bank":
        axes.text(-6, SIDE / 2, "frequency →", rotation=90, ha="right", va="center", fontsize=8, color=_FAINT)
        behind = cells[:, middles(cells.shape, 1, kind) > end].sum() / max(cells.sum(), 1e-12)
        words += f", {100 * behind:.0f} % in padding" if end < 1 and supported else ""
    page.text(left, top + SIDE + 12, f"{part.name}, time →", SIDE + _AXIS, colour=_FAINT)
    page.text(left, top + SIDE + 28, words, SIDE + _AXIS, colour=_FAINT)


def _draw_vector_bars(page: _Page, place: tuple[float, float], vectors: Mapping[str, float]) -> None:
    """Draw a bar per feature of one vector."""
    left, top = place
    axes = page.axes(left, top, SIDE, SIDE)
    places, right = np.arange(len(vectors)), max(1.25, 1.1 * max(vectors.values()))
    axes.barh(places, list(vectors.values()), color=_SHOWN_BAR, height=0.4)
    for y, name in zip(places, vectors, strict=True):
        axes.text(0.02 * right, y - 0.3, name, fontsize=8, color=_INK, va="bottom")
    axes.axvline(1, color=_INK, linewidth=0.8, linestyle=":")
    axes.set(yticks=[], xlim=(0, right), ylim=(len(vectors) - 0.5, -0.8))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes: Axes, relevance: Map, colours: Sequence[str]) -> None:
    count = len(relevance)
    axes.bar((np.arange(count) + 0.5) / count, relevance, width=0.8 / count, color=colours)
    axes.axhline(1, color=_INK, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, max(1.25, 1.1 * float(relevance.max()))), xticks=[])
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _sound_panels(explanation: Explanation) -> int:
    parts = explanation.parts.get("audio", [])
    return sum(part.tokens.ndim > 0 for part in parts) + any(part.tokens.ndim == 0 for part in parts)


def _why(explanation: Explanation, modality: str) -> str:
    return f"{modality}: {explanation.without_map.get(modality, 'the head does not take it')}"


def _largest(heat: Map) -> str:
    return f"largest {heat.max():.1f}"


def _tile(frame: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(frame).resize((_TILE, _TILE), Image.Resampling.BICUBIC))
