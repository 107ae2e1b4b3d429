"""Predictions of any media files explained: a page of pictures for each file, and all numbers as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from avfuse.features.cache import FeatureStore
from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError, UsageError
from avfuse.features.inputs.prepare import Outcome
from avfuse.features.spec import AnyInput, FeatureSpec, FilterBankInput, FramesInput
from avfuse.pipeline.prediction import ClipPrediction
from avfuse.pipeline.report.explain.figure import Shown, clip_page
from avfuse.pipeline.report.explain.network_inputs import ClipPictures, is_drawn
from avfuse.pipeline.report.explain.run_clips import NUMBERS, file_name, named_classes, parts_of, table_of
from avfuse.stages.fuse.analysis.attribution import Explanation, explain_clips
from avfuse.stages.fuse.runs.run_folder import Run

_AT_A_TIME = 64
"""Clips whose features are in memory."""


@dataclass(frozen=True)
class Extracted:
    """Where the features of clips are. pictures: what networks were given, as features too (`pictures_of`); without
    them media are decoded again."""

    cache: Path
    collection: str
    pictures: Sequence[FeatureSpec] = ()

    def shown(self, clip: Clip, explanation: Explanation) -> ClipPictures:
        """What maps of a clip are laid over."""
        if not self.pictures:
            return ClipPictures.of(clip, parts_of([explanation]))
        outcomes: dict[AnyInput, Outcome] = {}
        for spec in self.pictures:
            loaded = FeatureStore(self.cache, self.collection, spec).load([clip])
            why = ClipError("decode", loaded.missing.get(clip.clip_id, ""))
            outcomes[spec.input] = loaded.data[0] if loaded.present[0] else why
        return ClipPictures(clip, outcomes)


def pictures_of(specs: Sequence[FeatureSpec]) -> list[FeatureSpec]:
    """What networks are given, as features of their own, where a map can be laid over it: one decode then gives both.
    Frames are kept as one picture of several."""
    inputs = dict.fromkeys(spec.input for spec in specs if isinstance(spec.input, FramesInput) or len(spec.shape) > 1)
    return [
        FeatureSpec(
            name=f"shown:{taken.kind}",
            input=taken,
            model=None,
            output="filter_bank" if isinstance(taken, FilterBankInput) else "image",
            shape=taken.shape,
            dtype="float32" if isinstance(taken, FilterBankInput) else "uint8",
        )
        for taken in inputs
        if is_drawn(taken)
    ]


def explain_predictions(
    run: Run,
    row: str,
    predictions: Sequence[ClipPrediction],
    clips: Sequence[Clip],
    extracted: Extracted,
    folder: Path,
    device: str = "cpu",
) -> list[ClipPrediction]:
    """The same predictions with a picture each, of whole files, or of one window of each file: that of which the heads
    are surest. By Grad-CAM, of the likeliest class. One that cannot be explained says why, and stays as it is.

    Args:
        clips: of the predictions, by which their features are known.
        folder: made where missing; gets a PNG a clip, named by its number and its file, and explanations.csv
            (`table_of`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    told, tables = list(predictions), []
    chosen = _to_explain(predictions)
    for first in range(0, len(chosen), _AT_A_TIME):
        some = chosen[first : first + _AT_A_TIME]
        values = [list(predictions[at].probabilities.values()) for at in some]
        likeliest = np.array([[each.argmax() for each in of_clip] for of_clip in values])
        own = [clips[at] for at in some]
        try:
            found, _ = explain_clips(run, row, own, extracted.cache, extracted.collection, device, classes=likeliest)
        except UsageError as error:
            for at in some:
                told[at] = replace(told[at], unexplained=str(error))
            continue
        found = replace(found, probabilities=np.array([[each.max() for each in of_clip] for of_clip in values]))
        for number, at in enumerate(some):
            if all(np.isnan(maps[number]).any() for maps in found.maps.values()):
                told[at] = replace(told[at], unexplained=f"{row} has no map of what it was predicted from")
                continue
            file = folder / f"{file_name(first + number + 1, told[at].path.stem)}{_window(told[at])}.png"
            _draw(run, row, told[at], extracted.shown(own[number], found), found, number, file)
            told[at] = replace(told[at], picture=file)
        names = [{"path": str(told[at].path), "start": told[at].start, "end": told[at].end} for at in some]
        tables.append(table_of(run.targets, row, found, names).dropna(subset="relevance"))
    if tables:
        pd.concat(tables, ignore_index=True).to_csv(folder / NUMBERS, index=False)
    return told


def _draw(
    run: Run,
    row: str,
    prediction: ClipPrediction,
    pictures: ClipPictures,
    found: Explanation,
    number: int,
    file: Path,
) -> None:
    title = f"{prediction.path.name}{_window(prediction)}"
    named = replace(pictures, clip=replace(pictures.clip, clip_id=title))
    chance = float(np.prod(found.probabilities[number]))
    shown = Shown(row, named_classes(run.targets, found.classes[number]), chance, "", found)
    clip_page(named, "", [shown], number).savefig(file)


def _to_explain(predictions: Sequence[ClipPrediction]) -> list[int]:
    """Whole files, and of each file's windows the surest."""
    surest: dict[tuple[Path, int | None], int] = {}
    for at, each in enumerate(predictions):
        if each.problem is None:
            key = (each.path, at if each.start is None else None)
            if key not in surest or _sureness(each) > _sureness(predictions[surest[key]]):
                surest[key] = at
    return list(surest.values())


def _sureness(prediction: ClipPrediction) -> float:
    """The probability of the likeliest class; of several targets the product."""
    return float(np.prod([values.max() for values in prediction.probabilities.values()]))


def _window(prediction: ClipPrediction) -> str:
    return "" if prediction.start is None else f"-{prediction.start:.2f}-{prediction.end:.2f}s"
