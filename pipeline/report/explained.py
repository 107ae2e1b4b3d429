"""Rows of a run explained on some of its test clips: a page of pictures for each clip, and all numbers as a table."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from features.clips import Clip
from features.errors import UsageError
from features.inputs import prepare
from features.requests import resolve
from pipeline.report.examples import most_disputed, true_label
from pipeline.report.explanations import ClipPictures, Shown, clip_page, segments_page
from stages.fuse.data import FILTER_BANK, FusionData
from stages.fuse.explaining import Explanation, Method, explain
from stages.fuse.runs import HeadRun, Run
from stages.fuse.saved import load_head, plan_of
from stages.fuse.targets import Targets

Explained = Literal["predicted", "true"]
_UNFIT = re.compile(r"[^\w.-]+")


def choose_clips(run: Run, asked: Sequence[str], count: int) -> list[int]:
    """Numbers among the run's test clips: of those asked for, or of the `count` on which its rows disagree most. Raises
    UsageError for an id that is no test clip's."""
    if not asked:
        return most_disputed(run, count)
    place = {clip_id: number for number, clip_id in enumerate(_first(run).clip_ids)}
    if unknown := [clip_id for clip_id in asked if clip_id not in place]:
        raise UsageError(f"'{unknown[0]}' is no test clip of {run.folder}: see clip_id in its data set's manifest")
    return [place[clip_id] for clip_id in dict.fromkeys(asked)]


def explain_rows(
    run: Run, data: FusionData, clips: Sequence[int], method: Method, of: Explained
) -> dict[str, Explanation]:
    """Each row of a run on the test clips of these numbers. of: the class that is explained, the likeliest one or the
    true one, of a target of several classes the first of a clip's."""
    place = {clip_id: number for number, clip_id in enumerate(data.table["clip_id"])}
    rows = torch.tensor([place[_first(run).clip_ids[number]] for number in clips], device=data.test.device)
    classes = None if of == "predicted" else _true_classes(_first(run), clips)
    return {
        row: explain(plan_of(heads[0], data), [load_head(one, data) for one in heads], rows, method, classes)
        for row, heads in run.heads.items()
    }


def write_pages(
    run: Run,
    explained: Mapping[str, Explanation],
    chosen: Sequence[int],
    clips: Mapping[str, Clip],
    of: Explained,
    folder: Path,
) -> list[Path]:
    """A PNG for each clip. clips: of the manifest, by id."""
    written = []
    first = _first(run)
    parts = [part for each in explained.values() for its in each.parts.values() for part in its]
    for at, number in enumerate(chosen):
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
        clip_id = first.clip_ids[number]
        page = clip_page(ClipPictures.of(clips[clip_id], parts), true_label(run.targets, first, number), shown, at)
        written.append(folder / f"{at + 1}-{_UNFIT.sub('_', clip_id)}.png")
        page.savefig(written[-1])
    return written


def write_segments(clips: Sequence[Clip], folder: Path, seed: int) -> list[Path]:
    """A PNG for each clip that has sound: its filter bank, and what MASegm hides of it."""
    (spec,) = resolve([FILTER_BANK])
    written = []
    for at, clip in enumerate(clips):
        (bank,) = prepare(clip.path, clip.start, clip.end, [spec.input]).outcomes
        if isinstance(bank, np.ndarray):
            written.append(folder / f"{at + 1}-{_UNFIT.sub('_', clip.clip_id)}-segments.png")
            segments_page(bank, clip.clip_id, seed).savefig(written[-1])
    return written


def numbers(run: Run, explained: Mapping[str, Explanation], chosen: Sequence[int]) -> pd.DataFrame:
    """A line for each cell of each row, clip and feature. `relevance` is in multiples of the mean over the cells of its
    modality; `frame`, `line` and `column` say where the cell is, as `Part` has them, where it has such a place."""
    tables = []
    for row, each in explained.items():
        for modality, parts in each.parts.items():
            for number, part in enumerate(parts):
                where = _where(modality, part.tokens.shape)
                for at, clip in enumerate(chosen):
                    tables.append(
                        pd.DataFrame(
                            {
                                "row": row,
                                "method": each.method,
                                "clip_id": _first(run).clip_ids[clip],
                                "class": named_classes(run.targets, each.classes[at]),
                                "probability": float(np.prod(each.probabilities[at])),
                                "modality": modality,
                                "feature": part.name,
                                **where,
                                "relevance": each.map_of(modality, number, at).ravel(),
                            }
                        )
                    )
    return pd.concat(tables, ignore_index=True)


def named_classes(targets: Targets, classes: NDArray[np.int64]) -> str:
    """One class a target, such as `take + plate`."""
    return " + ".join(target.classes[number] for target, number in zip(targets, classes.tolist(), strict=True))


def _where(modality: str, shape: tuple[int, ...]) -> dict[str, NDArray[np.generic]]:
    """`frame`, `line`, `column` of all cells, in order; missing where a cell has none."""
    nowhere = np.full(shape, pd.NA, dtype=object)
    axes = dict(zip(_AXES.get((modality, len(shape)), _AXES_ELSE[len(shape)]), np.indices(shape), strict=True))
    return {name: axes.get(name, nowhere).ravel() for name in ("frame", "line", "column")}


_AXES = {("video", 1): ("frame",)}
_AXES_ELSE = {0: (), 1: ("column",), 2: ("line", "column"), 3: ("frame", "line", "column")}


def _verdict(first: HeadRun, number: int, classes: NDArray[np.int64]) -> str:
    right = [
        bool(truth[number][guess]) if truth.ndim == 2 else truth[number] == guess
        for truth, guess in zip(first.truth, classes.tolist(), strict=True)
    ]
    return "right" if all(right) else "wrong"


def _true_classes(first: HeadRun, clips: Sequence[int]) -> NDArray[np.int64]:
    columns = [truth.argmax(axis=1) if truth.ndim == 2 else truth for truth in first.truth]
    return np.stack(columns, axis=1)[list(clips)].astype(np.int64)


def _first(run: Run) -> HeadRun:
    return next(iter(run.heads.values()))[0]
