"""Predictions of media files explained: a page of pictures per file, and all numbers as a table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.pipeline.prediction import ClipPrediction
from avfuse.pipeline.report.explain.rows import NUMBERS, ExplanationSource, explain, explanation_table, write_page
from avfuse.pipeline.report.explain.run_clips import file_name
from avfuse.stages.fuse.runs.run_folder import Run

_BATCH = 64
"""Clips whose features are in memory at once."""


def explain_predictions(
    run: Run,
    row: str,
    predictions: Sequence[ClipPrediction],
    clips: Sequence[Clip],
    source: ExplanationSource,
    folder: Path,
) -> list[ClipPrediction]:
    """Explain the likeliest classes by Grad-CAM, and return the predictions with their pictures, or why they have none.

    Whole files are explained, and of a file's windows the one with the surest prediction.

    Args:
        clips: of the predictions, by which their features are cached.
        folder: created where missing; gets a PNG per clip, named by its number and its file, and explanations.csv
            (`explanation_table`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    explained, tables = list(predictions), []
    chosen = _to_explain(predictions)
    for first in range(0, len(chosen), _BATCH):
        batch = chosen[first : first + _BATCH]
        probabilities = [list(predictions[at].probabilities.values()) for at in batch]
        likeliest = np.array([[values.argmax() for values in of_clip] for of_clip in probabilities])
        try:
            (row_explanation,) = explain(run, [row], [clips[at] for at in batch], source, classes=likeliest)
        except UsageError as error:
            for at in batch:
                explained[at] = replace(explained[at], unexplained=str(error))
            continue
        highest = np.array([[values.max() for values in of_clip] for of_clip in probabilities])
        explanation = replace(row_explanation.explanation, probabilities=highest)
        row_explanation = replace(row_explanation, explanation=explanation)
        for number, at in enumerate(batch):
            prediction = predictions[at]
            if all(np.isnan(maps[number]).any() for maps in explanation.maps.values()):
                explained[at] = replace(prediction, unexplained=f"{row} has no map of what it was predicted from")
                continue
            file = folder / f"{file_name(first + number + 1, prediction.path.stem)}{_window(prediction)}.png"
            pictures = source.pictures(clips[at], [explanation])
            title = f"{prediction.path.name}{_window(prediction)}"
            write_page(file, pictures, title, "", [row_explanation.on_page(number, "")], number)
            explained[at] = replace(prediction, picture=file)
        names = [
            {"path": str(explained[at].path), "start": explained[at].start, "end": explained[at].end} for at in batch
        ]
        tables.append(explanation_table(run.targets, row, explanation, names).dropna(subset="relevance"))
    if tables:
        pd.concat(tables, ignore_index=True).to_csv(folder / NUMBERS, index=False)
    return explained


def _to_explain(predictions: Sequence[ClipPrediction]) -> list[int]:
    """Indices of whole files, and of the surest window of each file."""
    surest: dict[tuple[Path, int | None], int] = {}
    for at, prediction in enumerate(predictions):
        if prediction.problem is None:
            key = (prediction.path, at if prediction.start is None else None)
            if key not in surest or _sureness(prediction) > _sureness(predictions[surest[key]]):
                surest[key] = at
    return list(surest.values())


def _sureness(prediction: ClipPrediction) -> float:
    """The probability of the likeliest class; of several targets the product."""
    return float(np.prod([values.max() for values in prediction.probabilities.values()]))


def _window(prediction: ClipPrediction) -> str:
    return "" if prediction.start is None else f"-{prediction.start:.2f}-{prediction.end:.2f}s"
