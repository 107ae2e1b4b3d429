"""Rows of a run explained on some of its test clips, or on any others that it predicts: a page of pictures for each
clip, and all numbers as a table."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.inputs.prepare import prepare
from avfuse.manifests import Manifest
from avfuse.pipeline.report.disagreement import most_disputed, true_label
from avfuse.pipeline.report.explain.figure import Shown, clip_page
from avfuse.pipeline.report.explain.network_inputs import ClipPictures
from avfuse.pipeline.report.figures.segments import segments_page
from avfuse.stages.fuse.analysis.attribution import Explanation, Method, explain_clips
from avfuse.stages.fuse.data.dataset import FILTER_BANK
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.data.token_layout import FeatureTokens
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult

Explained = Literal["predicted", "true"]
NUMBERS = "explanations.csv"
"""The file that `numbers` and `table_of` go to."""

_UNFIT = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 50
_SAME = 0.01
"""How far a probability may move between devices."""


def choose_clips(run: Run, asked: Sequence[str], count: int) -> list[int]:
    """Numbers among the run's test clips: of those asked for, or of the `count` on which its rows disagree most. Raises
    UsageError for an id that is no test clip's."""
    if not asked:
        return most_disputed(run, count)
    place = {clip_id: number for number, clip_id in enumerate(_first(run).clip_ids)}
    if unknown := [clip_id for clip_id in asked if clip_id not in place]:
        raise UsageError(f"'{unknown[0]}' is no test clip of {run.folder}: see clip_id in its data set's manifest")
    return [place[clip_id] for clip_id in dict.fromkeys(asked)]


def clips_of(run: Run, chosen: Sequence[int], manifest: Manifest) -> list[Clip]:
    """The test clips of these numbers. Raises UsageError for one that the manifest has no more."""
    known = {clip.clip_id: clip for clip in manifest.clips()}
    ids = [_first(run).clip_ids[number] for number in chosen]
    if gone := [clip_id for clip_id in ids if clip_id not in known]:
        raise UsageError(f"'{gone[0]}', which {run.folder} was tested on, is no clip of '{manifest.name}' any more")
    return [known[clip_id] for clip_id in ids]


def explain_rows(
    run: Run, cache: Path, clips: Sequence[Clip], device: str, method: Method, of: Explained
) -> tuple[dict[str, Explanation], dict[str, str]]:
    """Each row of a run on some of its test clips, of which alone features are read; and by row why one is explained by
    Grad-CAM where attention was asked for.

    of: the class that is explained, the likeliest one or the true one, of a target of several classes the first of a
    clip's.

    Raises:
        UsageError: as `explain_clips`; where no row has attention; and where heads say something else of these clips
            than they said when they were tested.
    """
    place = {clip_id: number for number, clip_id in enumerate(_first(run).clip_ids)}
    chosen = [place[clip.clip_id] for clip in clips]
    classes = None if of == "predicted" else _true_classes(_first(run), chosen)
    found, instead = {}, {}
    for row, heads in run.heads.items():
        explanation, why = explain_clips(run, row, clips, cache, run.described["collection"], device, method, classes)
        _check_same(run, row, heads, chosen, explanation)
        found[row] = explanation
        if why is not None:
            instead[row] = why
    if instead and len(instead) == len(found):
        raise UsageError(
            f"{next(iter(instead.values()))}: take crossattn, bottleneck, mmt, mat_lite or mat, or Grad-CAM, which "
            "every head has"
        )
    return found, instead


def _check_same(run: Run, row: str, heads: Sequence[SeedResult], clips: Sequence[int], found: Explanation) -> None:
    """Raises UsageError unless heads give what is explained the probability that they gave it when they were tested."""
    every = []
    for one in heads:
        parts = run.targets.split(torch.from_numpy(one.logits[list(clips)]).double())
        every.append(
            [
                (part.sigmoid() if target.sigmoid else part.softmax(dim=1)).numpy()[np.arange(len(clips)), which]
                for target, part, which in zip(run.targets, parts, found.classes.T, strict=True)
            ]
        )
    then = np.mean(every, axis=0).T
    if np.abs(then - found.probabilities).max() > _SAME:
        raise UsageError(
            f"{run.folder}:{row} says something else of these clips than when it was tested: they or their features "
            "have changed since; train it again (avfuse fuse ... --replace)"
        )


def write_pages(
    run: Run,
    explained: Mapping[str, Explanation],
    chosen: Sequence[int],
    clips: Sequence[Clip],
    of: Explained,
    folder: Path,
) -> list[Path]:
    """A PNG for each clip. chosen: their numbers among the run's test clips."""
    written = []
    first = _first(run)
    parts = parts_of(explained.values())
    for at, (number, clip) in enumerate(zip(chosen, clips, strict=True)):
        shown = [
            Shown(
                row,
                named_classes(run.targets, each.classes[at]),
                float(np.prod(each.probabilities[at])),
                "the true class" if of == "true" else _verdict(first, number, each.classes[at]),
                each,
            )
            for row, each in explained.items()
        ]
        page = clip_page(ClipPictures.of(clip, parts), true_label(run.targets, first, number), shown, at)
        written.append(folder / f"{file_name(at + 1, clip.clip_id)}.png")
        page.savefig(written[-1])
    return written


def parts_of(explained: Iterable[Explanation]) -> list[FeatureTokens]:
    """The features that have maps."""
    return [part for each in explained for its in each.parts.values() for part in its]


def file_name(number: int, name: str) -> str:
    """Of a clip's picture, without its ending: unlike all others by its number, and safe in any file system."""
    return f"{number}-{_UNFIT.sub('_', name)[:_LONGEST_NAME]}"


def write_segments(clips: Sequence[Clip], folder: Path, seed: int) -> list[Path]:
    """A PNG for each clip that has sound: its filter bank, and what MASegm hides of it."""
    (spec,) = resolve([FILTER_BANK])
    written = []
    for at, clip in enumerate(clips):
        (bank,) = prepare(clip.path, clip.start, clip.end, [spec.input]).outcomes
        if isinstance(bank, np.ndarray):
            written.append(folder / f"{file_name(at + 1, clip.clip_id)}-segments.png")
            segments_page(bank, clip.clip_id, seed).savefig(written[-1])
    return written


def numbers(run: Run, explained: Mapping[str, Explanation], chosen: Sequence[int]) -> pd.DataFrame:
    """`table_of` some test clips of a run, by `clip_id`."""
    names = [{"clip_id": _first(run).clip_ids[clip]} for clip in chosen]
    return pd.concat([table_of(run.targets, row, each, names) for row, each in explained.items()], ignore_index=True)


def table_of(targets: Targets, row: str, found: Explanation, names: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """A line for each cell of each clip and feature. `relevance` is in multiples of the mean over the cells of its
    modality; `frame`, `line` and `column` say where the cell is, as in `FeatureTokens`, where it has such a place; of
    temporal windows each has a feature's name and frames of its own. names: columns that tell clips apart."""
    tables = []
    for modality, parts in found.parts.items():
        for number, part in enumerate(parts):
            where = _where(modality, part)
            for at, name in enumerate(names):
                said = {
                    "row": row,
                    "method": found.method,
                    **name,
                    "class": named_classes(targets, found.classes[at]),
                    "probability": float(np.prod(found.probabilities[at])),
                    "modality": modality,
                }
                tables.append(pd.DataFrame({**said, **where, "relevance": found.heatmap(modality, number, at).ravel()}))
    return pd.concat(tables, ignore_index=True)


def named_classes(targets: Targets, classes: NDArray[np.int64]) -> str:
    """One class a target, such as `take + plate`."""
    return " + ".join(target.classes[number] for target, number in zip(targets, classes.tolist(), strict=True))


def _where(modality: str, part: FeatureTokens) -> dict[str, NDArray[np.generic]]:
    """`feature`, `frame`, `line`, `column` of all cells, in order; missing where a cell has none."""
    shape = part.tokens.shape
    windows = max(1, len(part.specs))
    own = (shape[0] // windows, *shape[1:]) if shape else shape
    feature = np.repeat([spec.name for spec in part.specs] or [part.name], part.tokens.size // windows)
    nowhere = np.full(part.tokens.size, pd.NA, dtype=object)
    axes = dict(zip(_AXES.get((modality, len(own)), _AXES_ELSE[len(own)]), np.indices(own), strict=True))
    cells = {name: np.tile(axis.ravel(), windows) for name, axis in axes.items()}
    return {"feature": feature, **{name: cells.get(name, nowhere) for name in ("frame", "line", "column")}}


_AXES = {("video", 1): ("frame",)}
_AXES_ELSE = {0: (), 1: ("column",), 2: ("line", "column"), 3: ("frame", "line", "column")}


def _verdict(first: SeedResult, number: int, classes: NDArray[np.int64]) -> str:
    right = [
        bool(truth[number][guess]) if truth.ndim == 2 else truth[number] == guess
        for truth, guess in zip(first.truth, classes.tolist(), strict=True)
    ]
    return "right" if all(right) else "wrong"


def _true_classes(first: SeedResult, clips: Sequence[int]) -> NDArray[np.int64]:
    columns = [truth.argmax(axis=1) if truth.ndim == 2 else truth for truth in first.truth]
    return np.stack(columns, axis=1)[list(clips)].astype(np.int64)


def _first(run: Run) -> SeedResult:
    return next(iter(run.heads.values()))[0]
