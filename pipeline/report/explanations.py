"""Explanations as pictures: what heads look at laid over a clip's frames and sound, head below head, and the segments
of a filter bank that masked learning hides."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from features.clips import Clip
from features.errors import ClipError
from features.filter_bank import FRAMES, MEL_BANDS
from features.inputs import Outcome, prepare
from features.media import DEFAULT_READER
from features.spec import AnyInput, FilterBankInput, FramesInput, ImageInput
from stages.fuse.explaining import Explanation, Method
from stages.fuse.masking import (
    AUDIO_GRIDS,
    SEGMENTS,
    change_of,
    count_valid_frames,
    draw_segment_mask,
    segments,
    stack_boundaries,
)
from stages.fuse.places import Part

SIDE = 224
"""Pixels: maps over audio images are as large as what networks see."""
SHOWN_FRAMES = 8
COLOURS, BANK_COLOURS = "plasma", "cividis"
"""Of maps and of filter banks: both rise evenly in lightness, so that colour-blind eyes tell the same."""

_DPI = 100
_TILE, _GAP, _MARGIN, _TITLE, _LABEL = 128, 4, 24, 30, 40
_STRIP = SHOWN_FRAMES * (_TILE + _GAP) - _GAP
_BAND = _TITLE + SIDE + _LABEL
_HEADER, _AXIS = 44, 52
_SCALE = 116
_POINTS_PER_LETTER = 0.56  # of a font's size, on average
_INK, _FAINT = "#202428", "#6b7278"
_BAR, _SHOWN_BAR = "#9aa5b1", "#00336f"
_SECONDS_PER_FRAME = 0.01
_METHODS: Mapping[Method, str] = {"grad-cam": "Grad-CAM", "attention": "attention rollout"}
_NOTHING = "The map is zero everywhere: no cell speaks for this class."

Pixels = NDArray[np.uint8]
Map = NDArray[np.float64]


class Shown(NamedTuple):
    """A row of a run on one clip: the class that is explained, its probability, what it is to the clip, and maps."""

    row: str
    guess: str
    probability: float
    verdict: str
    explanation: Explanation


@dataclass(frozen=True)
class ClipPictures:
    """What networks were given of a clip: frames uint8 (T, H, W, 3) and sounds (filter banks float32 (1024, 128), audio
    images uint8 (H, W, 3)) by what they are; or what went wrong, in words."""

    clip: Clip
    inputs: Mapping[AnyInput, Outcome]

    @classmethod
    def of(cls, clip: Clip, parts: Sequence[Part]) -> "ClipPictures":
        """Of the features that have cells in a picture."""
        taken = {spec.input for part in parts for spec in part.specs if part.tokens.ndim}
        drawn = sorted((each for each in taken if is_drawn(each)), key=_reader)
        outcomes: dict[AnyInput, Outcome] = {}
        for _, group in groupby(drawn, _reader):
            alike = list(group)
            outcomes |= zip(alike, prepare(clip.path, clip.start, clip.end, alike).outcomes, strict=True)
        return cls(clip, outcomes)

    def frames(self, part: Part) -> Pixels | str:
        """All frames that a feature was made of, window after window."""
        every = [self._picture(spec.input) for spec in part.specs]
        if problem := next((each for each in every if isinstance(each, str)), ""):
            return problem
        return np.concatenate(every) if every else "no feature stands behind these numbers"

    def sound(self, part: Part) -> Pixels | str:
        """The picture of sound that a feature was made of, grey, uint8 (224, 224); a filter bank without its padding,
        with low frequencies at the bottom and time to the right."""
        if not part.specs:
            return "no feature stands behind these numbers"
        picture = self._picture(part.specs[0].input)
        if isinstance(picture, str):
            return picture
        if isinstance(part.specs[0].input, FilterBankInput):
            return _resized(_grey_bank(picture[: round(self.length(part) * len(picture))]))
        return _resized(_grey(picture))

    def length(self, part: Part) -> float:
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
    rows, columns = (_middles(cells.shape, axis, kind) for axis in (0, 1))
    height, width = size
    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    wide = np.stack([np.interp(across, columns, row) for row in cells])
    tall = np.stack([np.interp(down, rows, column) for column in wide.T], axis=1)
    return tall[::-1] if kind == "filter_bank" else tall


def _middles(shape: tuple[int, ...], axis: int, kind: str) -> NDArray[np.float64]:
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


def clip_page(pictures: ClipPictures, label: str, shown: Sequence[Shown], clip: int) -> Figure:
    """Eight frames of a clip, and row below row what heads look at: a map over each frame and the relevance of every
    frame below them, and the sound with its map beside (AVT's Figures 2, 5 and 6). Relevance is in multiples of the
    mean over cells.

    label: the clip's true classes, or nothing. clip: which of the explained clips it is.
    """
    panels = max(1, *(_sound_panels(each.explanation) for each in shown))
    bands = [max(1, len(each.explanation.parts.get("video", []))) for each in shown]
    frames = _frames_shown(pictures, shown)
    above = _TILE + 2 * _GAP if frames is not None else 0
    width = 2 * _MARGIN + _AXIS + _STRIP + panels * (_AXIS + SIDE)
    height = _HEADER + max(above, _SCALE) + sum(bands) * _BAND
    page = _Page(width, height)
    left, right = _MARGIN + _AXIS, _MARGIN + _AXIS + _STRIP + _AXIS
    page.text(left, 22, ": ".join(filter(None, (pictures.clip.clip_id, label))), _STRIP, size=13, weight="bold")
    if frames is not None:
        _draw_strip(page, (left, _HEADER), [_tile(frame) for frame in frames])
    _draw_scale(page, (right, 22), {each.explanation.method for each in shown})
    top = _HEADER + max(above, _SCALE)
    for each, count in zip(shown, bands, strict=True):
        _draw_title(page, (left, top + 18), each, {other.explanation.method for other in shown})
        for number, part in enumerate(each.explanation.parts.get("video", [])):
            heat = each.explanation.map_of("video", number, clip)
            _draw_video(page, (left, top + number * _BAND + _TITLE), pictures.frames(part), heat, part)
        if "video" not in each.explanation.parts:
            page.note((left, top + _TITLE, _STRIP, SIDE), _why(each.explanation, "video"))
        _draw_sounds(page, (right, top + _TITLE), pictures, each.explanation, clip)
        top += count * _BAND
    return page.figure


def segments_page(bank: NDArray[np.float32], name: str, seed: int = 0) -> Figure:
    """A filter bank (1024, 128), how much it changes with the points where that cuts it, and one draw of the segments
    that MASegm hides along all bands (AVT's Figure 4 b)."""
    valid = int(count_valid_frames(torch.from_numpy(bank)[None]))
    boundaries = stack_boundaries([segments(bank, valid)])
    masked = draw_segment_mask(boundaries, torch.Generator().manual_seed(seed))[0].numpy()
    edges = boundaries[0].numpy()
    count = int((np.diff(edges) > 0).sum())
    figure = Figure(figsize=(10, 7), dpi=_DPI, layout="constrained")
    above, between, below = figure.subplots(3, 1, sharex=True, height_ratios=(5, 2, 5))
    own = bank[:valid].T
    hidden = np.repeat(masked, np.diff(edges)[:SEGMENTS]) if valid else np.zeros(0, dtype=bool)
    cuts = edges[1:count] * _SECONDS_PER_FRAME
    for axes, values in ((above, own), (below, np.where(hidden, np.nan, own))):
        image = axes.imshow(
            values,
            origin="lower",
            aspect="auto",
            cmap=BANK_COLOURS,
            extent=(0, valid * _SECONDS_PER_FRAME, 0, MEL_BANDS),
            vmin=own.min(),
            vmax=own.max(),
        )
        axes.vlines(cuts, 0, MEL_BANDS, colors="white", linewidth=0.8, alpha=0.7)
        axes.set(ylabel="mel band", facecolor="white")
    change = change_of(bank, valid)
    between.plot((np.arange(valid) + 0.5) * _SECONDS_PER_FRAME, change, color=_SHOWN_BAR, linewidth=1)
    usual = 1.5 * float(np.quantile(change, 0.95)) if valid else 0.0
    between.set(ylabel="change", ylim=(0, usual or 1))
    between.vlines(cuts, 0, 1, colors=_BAR, linewidth=0.8, transform=between.get_xaxis_transform())
    between.spines[["top", "right"]].set_visible(False)
    above.set_title(f"{name}: filter bank, cut into {count} segments where the sound changes most", fontsize=11)
    below.set_title(f"one draw: {int(masked.sum())} of {count} segments hidden (white)", fontsize=11)
    below.set_xlabel("seconds")
    figure.colorbar(image, ax=[above, below], label="log energy, normalised", pad=0.01, fraction=0.03)
    return figure


class _Page:
    """A figure whose places are pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        place = left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height
        return self.figure.add_axes(place)

    def picture(self, left: float, top: float, pixels: Pixels) -> Axes:
        """As large as it is."""
        axes = self.axes(left, top, pixels.shape[1], pixels.shape[0])
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="none", aspect="auto")
        axes.set_axis_off()
        return axes

    def text(
        self, x: float, y: float, words: str, room: float, size: int = 9, colour: str = _INK, **options: Any
    ) -> None:
        """One line, cut where it would take more than `room` pixels."""
        letters = int(room / (size * _POINTS_PER_LETTER * _DPI / 72))
        words = words if len(words) <= letters else f"{words[: letters - 3]}..."
        self.figure.text(
            x / self.width, 1 - y / self.height, words, fontsize=size, color=colour, va="center", **options
        )

    def note(self, box: tuple[float, float, float, float], words: str) -> None:
        """In the place of a picture that there is none of."""
        left, top, width, height = box
        axes = self.axes(left, top, width, height)
        axes.set(xticks=[], yticks=[], facecolor="#f3f4f5")
        axes.spines[:].set_visible(False)
        lines = textwrap.fill(words, max(10, int(width / 8)))
        axes.text(0.5, 0.5, lines, ha="center", va="center", fontsize=9, color=_FAINT, transform=axes.transAxes)


def _frames_shown(pictures: ClipPictures, shown: Sequence[Shown]) -> Pixels | None:
    """Eight frames uint8 (8, H, W, 3) of the first feature that is of frames which can be shown."""
    for each in shown:
        for part in each.explanation.parts.get("video", []):
            if not isinstance(frames := pictures.frames(part), str):
                return frames[_eight_of(len(frames))]
    return None


def _eight_of(count: int) -> NDArray[np.int64]:
    """Which of so many frames are shown."""
    return ((np.arange(SHOWN_FRAMES) + 0.5) * count / SHOWN_FRAMES).astype(np.int64)


def _draw_title(page: _Page, place: tuple[float, float], shown: Shown, methods: set[Method]) -> None:
    verdict = f" ({shown.verdict})" if shown.verdict else ""
    method = f", by {_METHODS[shown.explanation.method]}" if len(methods) > 1 else ""
    title = f"{shown.row}: {shown.guess}, {100 * shown.probability:.0f} %{verdict}{method}"
    page.text(*place, title, _STRIP, size=11)


def _draw_scale(page: _Page, place: tuple[float, float], methods: set[Method]) -> None:
    """What colours and numbers mean."""
    left, top = place
    named = ", ".join(words for each, words in _METHODS.items() if each in methods)
    page.text(left, top, named, SIDE, size=9, weight="bold")
    bar = page.figure.colorbar(
        ScalarMappable(cmap=COLOURS),
        cax=page.axes(left, top + 20, SIDE, 12),
        ticks=[0, 1],
        orientation="horizontal",
    )
    bar.ax.set_xticklabels(["0", "each map's largest"], fontsize=8)
    none, most = bar.ax.get_xticklabels()
    none.set_horizontalalignment("left")
    most.set_horizontalalignment("right")
    bar.outline.set_visible(False)  # type: ignore[operator]
    page.text(left, top + 62, "relevance: 1 is the mean over", SIDE, colour=_FAINT)
    page.text(left, top + 78, "the cells of a modality", SIDE, colour=_FAINT)


def _draw_strip(page: _Page, place: tuple[float, float], tiles: Sequence[Pixels]) -> None:
    left, top = place
    for number, tile in enumerate(tiles):
        page.picture(left + number * (_TILE + _GAP), top, tile)


def _draw_video(page: _Page, place: tuple[float, float], frames: Pixels | str, heat: Map, part: Part) -> None:
    """Maps over the frames shown where frames have cells, and below the relevance of every frame."""
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
        chosen = _eight_of(len(frames))
        marked = (chosen * len(heat) // len(frames)).tolist() if _is_in_time(part) else []
        if heat.ndim == 3:
            grey = [_grey(_tile(frames[frame])) for frame in chosen]
            maps = [enlarged(heat[step], "frames", (_TILE, _TILE)) for step in marked]
            _draw_strip(page, place, [overlay(*each, heat.max()) for each in zip(grey, maps, strict=True)])
            above = _TILE
    _draw_steps(page, (left, top + above), SIDE - above, heat, part, marked)


def _draw_steps(
    page: _Page, place: tuple[float, float], height: int, heat: Map, part: Part, marked: Sequence[int]
) -> None:
    """Bars on the time axis of the frames above; those at `marked` are dark. Cells of a frame are averaged."""
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


def _is_in_time(part: Part) -> bool:
    """Whether the first axis of a video feature's cells is time."""
    return part.tokens.ndim == 3 or all(spec.output != "tokens" for spec in part.specs)


def _steps(part: Part, count: int) -> str:
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
    maps = [explanation.map_of("audio", number, clip) for number in range(len(parts))]
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


def _draw_sound(page: _Page, place: tuple[float, float], pictures: ClipPictures, part: Part, heat: Map) -> None:
    """The map over its picture, of time alone where it has no other axis; without a picture a bar for each token."""
    left, top = place
    grey = pictures.sound(part)
    kind = part.specs[0].input.kind if part.specs else ""
    if isinstance(grey, str):
        _bars(page.axes(left, top, SIDE, SIDE), heat.ravel(), [_BAR] * heat.size)
        page.text(left, top + SIDE + 14, f"tokens in order; {grey}", SIDE + _AXIS, colour=_FAINT)
        return
    cells, end = np.atleast_2d(heat), pictures.length(part)
    heated = enlarged(cells, kind, (SIDE, round(SIDE / end)))[:, :SIDE]
    spoken = bool(heat.any())
    plain = np.repeat(grey[..., None], 3, axis=2)
    axes = page.picture(left, top, overlay(grey, heated, heat.max()) if spoken else plain)
    words = _largest(heat)
    if not spoken:
        box = {"boxstyle": "round,pad=0.6", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
        lines = textwrap.fill(_NOTHING, 26)
        axes.text(SIDE / 2, SIDE / 2, lines, ha="center", va="center", fontsize=8, color=_INK, bbox=box)
        words = ""
    if kind == "filter_bank":
        axes.text(-6, SIDE / 2, "frequency →", rotation=90, ha="right", va="center", fontsize=8, color=_FAINT)
        behind = cells[:, _middles(cells.shape, 1, kind) > end].sum() / max(cells.sum(), 1e-12)
        words += f", {100 * behind:.0f} % in padding" if end < 1 and spoken else ""
    page.text(left, top + SIDE + 12, f"{part.name}, time →", SIDE + _AXIS, colour=_FAINT)
    page.text(left, top + SIDE + 28, words, SIDE + _AXIS, colour=_FAINT)


def _draw_vector_bars(page: _Page, place: tuple[float, float], vectors: Mapping[str, float]) -> None:
    """Of features that are one vector each."""
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


def _grey(picture: Pixels) -> Pixels:
    """(H, W, 3) -> (H, W)."""
    return np.asarray(Image.fromarray(picture).convert("L"))


def _grey_bank(bank: NDArray[np.float32]) -> Pixels:
    """(1024, 128) -> (128, 1024), from the quietest to the loudest value, low frequencies at the bottom."""
    low, high = float(bank.min()), float(bank.max())
    return np.rint(255 * (bank.T[::-1] - low) / max(high - low, 1e-6)).astype(np.uint8)


def _resized(grey: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(np.ascontiguousarray(grey)).resize((SIDE, SIDE), Image.Resampling.BOX))
