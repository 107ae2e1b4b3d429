"""Explanations as pictures: what heads look at laid over a clip's frames and sound, head below head, and the segments
of a filter bank that masked learning hides."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from features.spec import AnyInput, FilterBankInput, FramesInput, ImageInput
from stages.fuse.explaining import Explanation
from stages.fuse.masking import AUDIO_GRIDS, SEGMENTS, count_valid_frames, draw_segment_mask, segments, stack_boundaries
from stages.fuse.places import Part

SIDE = 224
"""Pixels: maps over audio images are as large as what networks see."""
SHOWN_FRAMES = 8
COLOURS, BANK_COLOURS = "plasma", "cividis"
"""Of maps and of filter banks: both rise evenly in lightness, so that colour-blind eyes tell the same."""

_DPI = 100
_TILE, _GAP, _MARGIN, _TITLE, _LABEL = SIDE // 2, 4, 24, 30, 36
_STRIP = SHOWN_FRAMES * (_TILE + _GAP) - _GAP
_BAND = _TITLE + SIDE + _LABEL
_HEADER, _LEGEND, _AXIS = 56, 76, 44
_INK, _FAINT = "#202428", "#6b7278"
_BAR, _SHOWN_BAR = "#9aa5b1", "#00336f"
_SECONDS_PER_FRAME = 0.01

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
        taken = dict.fromkeys(spec.input for part in parts for spec in part.specs if part.tokens.ndim)
        drawn = [each for each in taken if isinstance(each, FramesInput | ImageInput | FilterBankInput)]
        return cls(clip, {each: prepare(clip.path, clip.start, clip.end, [each]).outcomes[0] for each in drawn})

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
    """Row below row, what heads look at in one clip: eight frames with a map over each, or the relevance of every frame
    below them, and the sound beside. Relevance is in multiples of the mean over cells.

    label: the clip's true classes. clip: which of the explained clips it is.
    """
    panels = max(1, *(_sound_panels(each.explanation) for each in shown))
    bands = [max(1, len(each.explanation.parts.get("video", []))) for each in shown]
    width = 2 * _MARGIN + _AXIS + _STRIP + panels * (_AXIS + SIDE) + _LEGEND
    height = _HEADER + sum(bands) * _BAND + _MARGIN
    page = _Page(width, height)
    page.text(_MARGIN, 20, f"{pictures.clip.clip_id}: {label}", size=13, weight="bold")
    method = {"grad-cam": "Grad-CAM", "attention": "attention (rollout)"}[shown[0].explanation.method]
    page.text(_MARGIN, 42, f"{method}; 1 is the mean over cells", colour=_FAINT)
    top = _HEADER
    for each, count in zip(shown, bands, strict=True):
        title = f"{each.row}: {each.guess}, {100 * each.probability:.0f} % ({each.verdict})"
        page.text(_MARGIN + _AXIS, top + 17, title, size=11)
        left = _MARGIN + _AXIS
        for number, part in enumerate(each.explanation.parts.get("video", [])):
            heat = each.explanation.map_of("video", number, clip)
            _draw_video(page, (left, top + number * _BAND + _TITLE), pictures.frames(part), heat)
        if "video" not in each.explanation.parts:
            page.note((left, top + _TITLE, _STRIP, SIDE), _why(each.explanation, "video"))
        _draw_sounds(page, (left + _STRIP + _AXIS, top + _TITLE), pictures, each.explanation, clip)
        if _has_colours(each.explanation, clip):
            _draw_legend(page, (width - _MARGIN - _LEGEND + 24, top + _TITLE))
        top += count * _BAND
    return page.figure


def segments_page(bank: NDArray[np.float32], name: str, seed: int = 0) -> Figure:
    """A filter bank (1024, 128), its change points, and one draw of the segments that MASegm hides (AVT's Figure 4)."""
    valid = int(count_valid_frames(torch.from_numpy(bank)[None]))
    boundaries = stack_boundaries([segments(bank, valid)])
    masked = draw_segment_mask(boundaries, torch.Generator().manual_seed(seed))[0].numpy()
    edges = boundaries[0].numpy()
    count = int((np.diff(edges) > 0).sum())
    figure = Figure(figsize=(10, 6), dpi=_DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    seconds = valid * _SECONDS_PER_FRAME
    own = bank[:valid].T
    hidden = np.repeat(masked, np.diff(edges)[:SEGMENTS]) if valid else np.zeros(0, dtype=bool)
    for axes, values in ((above, own), (below, np.where(hidden, np.nan, own))):
        axes.set_facecolor("white")
        axes.imshow(
            values,
            origin="lower",
            aspect="auto",
            cmap=BANK_COLOURS,
            extent=(0, seconds, 0, MEL_BANDS),
            vmin=own.min(),
            vmax=own.max(),
        )
        axes.set_ylabel("mel band")
    above.vlines(edges[1:count] * _SECONDS_PER_FRAME, 0, MEL_BANDS, colors="white", linewidth=1)
    above.set_title(f"{name}: filter bank, cut into {count} segments where the sound changes most")
    below.set_title(f"one draw: {int(masked.sum())} of {count} segments hidden (white)")
    below.set_xlabel("seconds")
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

    def text(self, x: float, y: float, words: str, size: int = 9, colour: str = _INK, **options: Any) -> None:
        self.figure.text(
            x / self.width, 1 - y / self.height, words, fontsize=size, color=colour, va="center", **options
        )

    def note(self, box: tuple[float, float, float, float], words: str) -> None:
        """In the place of a picture that there is none of."""
        left, top, width, height = box
        axes = self.axes(left, top, width, height)
        axes.set(xticks=[], yticks=[], facecolor="#f3f4f5")
        axes.spines[:].set_visible(False)
        lines = textwrap.fill(words, max(10, int(width / 7)))
        axes.text(0.5, 0.5, lines, ha="center", va="center", fontsize=9, color=_FAINT, transform=axes.transAxes)


def _draw_video(page: _Page, place: tuple[float, float], frames: Pixels | str, heat: Map) -> None:
    left, top = place
    if np.isnan(heat).any():
        page.note((left, top, _STRIP, SIDE), "the clip has no picture, or nothing of it reaches the score")
        return
    if isinstance(frames, str):
        page.note((left, top, _STRIP, _TILE), frames)
        _draw_frame_bars(page, place, heat, [])
        return
    chosen = ((np.arange(SHOWN_FRAMES) + 0.5) * len(frames) / SHOWN_FRAMES).astype(np.int64)
    tiles = [_tile(frames[frame]) for frame in chosen]
    for number, tile in enumerate(tiles):
        page.picture(left + number * (_TILE + _GAP), top, tile)
    steps = (chosen * len(heat) // len(frames)).tolist()
    if heat.ndim != 3:
        _draw_frame_bars(page, place, heat, steps)
        return
    for number, (tile, step) in enumerate(zip(tiles, steps, strict=True)):
        heated = overlay(_grey(tile), enlarged(heat[step], "frames", (_TILE, _TILE)), heat.max())
        page.picture(left + number * (_TILE + _GAP), top + _TILE + _GAP, heated)
    page.text(left, top + SIDE + 16, _largest(heat), colour=_FAINT)


def _draw_frame_bars(page: _Page, place: tuple[float, float], heat: Map, marked: Sequence[int]) -> None:
    """Below the strip, on its time axis; those at `marked` are dark. Cells of a frame are averaged."""
    left, top = place
    relevance = heat.reshape(len(heat), -1).mean(axis=1)
    axes = page.axes(left, top + _TILE + 10, _STRIP, SIDE - _TILE - 10)
    _bars(axes, relevance, [_SHOWN_BAR if number in marked else _BAR for number in range(len(relevance))])
    words = f"relevance of each of {len(relevance)} frames" + ("; dark: those above" if marked else "")
    page.text(left, top + SIDE + 14, words if relevance.any() else "no frame speaks for this class", colour=_FAINT)


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
        page.note((left, top, SIDE, SIDE), "the clip has no sound, or nothing of it reaches the score")
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
        page.text(left, top + SIDE + 14, textwrap.shorten(f"tokens in order; {grey}", 40), colour=_FAINT)
        return
    cells, end = np.atleast_2d(heat), pictures.length(part)
    heated = enlarged(cells, kind, (SIDE, round(SIDE / end)))[:, :SIDE]
    axes = page.picture(left, top, overlay(grey, heated, heat.max()))
    words = _largest(heat)
    if kind == "filter_bank":
        axes.text(-6, SIDE / 2, "frequency →", rotation=90, ha="right", va="center", fontsize=8, color=_FAINT)
        behind = cells[:, _middles(cells.shape, 1, kind) > end].sum() / max(cells.sum(), 1e-12)
        words += f", {100 * behind:.0f} % in padding" if end < 1 and heat.max() > 0 else ""
    page.text(left, top + SIDE + 12, f"{part.name}, time →", colour=_FAINT)
    page.text(left, top + SIDE + 27, words, colour=_FAINT)


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
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(page: _Page, place: tuple[float, float]) -> None:
    left, top = place
    axes = page.axes(left, top, 12, SIDE)
    bar = page.figure.colorbar(ScalarMappable(cmap=COLOURS), cax=axes, ticks=[0, 1])
    bar.ax.set_yticklabels(["0", "max"], fontsize=8)
    bar.ax.set_ylabel("relevance", fontsize=8, labelpad=-12)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _has_colours(explanation: Explanation, clip: int) -> bool:
    """Whether a map of this clip is drawn over pictures."""
    return any(
        part.tokens.ndim > 1 and np.isfinite(explanation.maps[name][clip]).all()
        for name, parts in explanation.parts.items()
        for part in parts
    )


def _sound_panels(explanation: Explanation) -> int:
    parts = explanation.parts.get("audio", [])
    return sum(part.tokens.ndim > 0 for part in parts) + any(part.tokens.ndim == 0 for part in parts)


def _why(explanation: Explanation, modality: str) -> str:
    return f"{modality}: {explanation.without_map.get(modality, 'the head does not take it')}"


def _largest(heat: Map) -> str:
    return f"max {heat.max():.1f} times the mean" if heat.max() > 0 else "no cell speaks for this class"


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
