"""Rows of a run explained on some of its test clips: a page of pictures per clip, and all numbers as a table."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.inputs.prepare import prepare
from avfuse.manifests import Manifest
from avfuse.pipeline.report.disagreement import most_disputed, true_label
from avfuse.pipeline.report.explain.rows import (
    ExplanationSource,
    RowExplanation,
    explain,
    explanation_table,
    write_page,
)
from avfuse.pipeline.report.figures.segments import segments_page
from avfuse.stages.fuse.analysis.attribution import Method
from avfuse.stages.fuse.data.dataset import FILTER_BANK
from avfuse.stages.fuse.evaluation.metrics import mean_probabilities
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult

ExplainedClass = Literal["predicted", "true"]
_UNFIT = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 50
_TOLERANCE = 0.01
"""Largest difference of probabilities between devices."""


def choose_clips(run: Run, clip_ids: Sequence[str], count: int) -> list[int]:
    """Positions among the run's test clips of those named, or of the `count` on which its rows disagree most. Raises
    UsageError for an unknown id."""
    if not clip_ids:
        return most_disputed(run, count)
    place = {clip_id: number for number, clip_id in enumerate(_first(run).clip_ids)}
    if unknown := [clip_id for clip_id in clip_ids if clip_id not in place]:
        raise UsageError(f"'{unknown[0]}' is no test clip of {run.folder}: see clip_id in its data set's manifest")
    return [place[clip_id] for clip_id in dict.fromkeys(clip_ids)]


def load_test_clips(run: Run, chosen: Sequence[int], manifest: Manifest) -> list[Clip]:
    """The test clips at these positions. Raises UsageError for one that is no longer in the manifest."""
    known = {clip.clip_id: clip for clip in manifest.clips()}
    ids = [_first(run).clip_ids[number] for number in chosen]
    if gone := [clip_id for clip_id in ids if clip_id not in known]:
        raise UsageError(f"'{gone[0]}', which {run.folder} was tested on, is no clip of '{manifest.name}' any more")
    return [known[clip_id] for clip_id in ids]


def explain_rows(
    run: Run, clips: Sequence[Clip], source: ExplanationSource, method: Method, of: ExplainedClass
) -> list[RowExplanation]:
    """Explain every row of a run on some of its test clips.

    Args:
        of: the class to explain, the likeliest or the true one, of a target of several classes the clip's first.

    Raises:
        UsageError: as `explain_clips`; where no row has attention; and where heads predict other probabilities than
            when they were tested.
    """
    place = {clip_id: number for number, clip_id in enumerate(_first(run).clip_ids)}
    chosen = [place[clip.clip_id] for clip in clips]
    classes = None if of == "predicted" else _true_classes(_first(run), chosen)
    explained = explain(run, run.heads, clips, source, method, classes)
    for row in explained:
        _check_same(run, row, chosen)
    if all(row.fallback for row in explained):
        raise UsageError(
            f"{explained[0].fallback}: take crossattn, bottleneck, mmt, mat_lite or mat, or Grad-CAM, which every head "
            "has"
        )
    return explained


def _check_same(run: Run, row: RowExplanation, clips: Sequence[int]) -> None:
    """Raises UsageError unless heads give the explained classes the probabilities that they gave them at test."""
    means = mean_probabilities(run.targets, [result.logits[list(clips)] for result in run.heads[row.row]])
    of_classes = zip(means, row.explanation.classes.T, strict=True)
    at_test = np.stack([values[np.arange(len(clips)), classes] for values, classes in of_classes], axis=1)
    if np.abs(at_test - row.explanation.probabilities).max() > _TOLERANCE:
        raise UsageError(
            f"{run.folder}:{row.row} says something else of these clips than when it was tested: they or their "
            "features have changed since; train it again (avfuse fuse ... --replace)"
        )


def write_pages(
    run: Run,
    explained: Sequence[RowExplanation],
    chosen: Sequence[int],
    clips: Sequence[Clip],
    source: ExplanationSource,
    of: ExplainedClass,
    folder: Path,
) -> list[Path]:
    """Write a PNG per clip. chosen: the clips' positions among the run's test clips."""
    files = []
    first = _first(run)
    for at, (number, clip) in enumerate(zip(chosen, clips, strict=True)):
        rows = [
            row.on_page(at, "the true class" if of == "true" else _verdict(first, number, row.explanation.classes[at]))
            for row in explained
        ]
        files.append(folder / f"{file_name(at + 1, clip.clip_id)}.png")
        pictures = source.pictures(clip, (row.explanation for row in explained))
        write_page(files[-1], pictures, clip.clip_id, true_label(run.targets, first, number), rows, at)
    return files


def file_name(number: int, name: str) -> str:
    """The name of a clip's picture without its ending: unique by its number, and valid on any file system."""
    return f"{number}-{_UNFIT.sub('_', name)[:_LONGEST_NAME]}"


def write_segments(clips: Sequence[Clip], folder: Path, seed: int) -> list[Path]:
    """Write a PNG per clip with sound: its filter bank, and the segments that MASegm hides."""
    (spec,) = resolve([FILTER_BANK])
    files = []
    for at, clip in enumerate(clips):
        (bank,) = prepare(clip.path, clip.start, clip.end, [spec.input]).outcomes
        if isinstance(bank, np.ndarray):
            files.append(folder / f"{file_name(at + 1, clip.clip_id)}-segments.png")
            segments_page(bank, clip.clip_id, seed).savefig(files[-1])
    return files


def numbers(run: Run, explained: Sequence[RowExplanation], chosen: Sequence[int]) -> pd.DataFrame:
    """`explanation_table` of some test clips of a run, by `clip_id`."""
    clips = [{"clip_id": _first(run).clip_ids[number]} for number in chosen]
    tables = [explanation_table(run.targets, row.row, row.explanation, clips) for row in explained]
    return pd.concat(tables, ignore_index=True)


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
