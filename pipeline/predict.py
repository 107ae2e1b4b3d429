"""From media files and a finished run to probabilities: both stages, over a cache that lasts as long as that takes."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from avfuse.features.backbones import WeightsChoice
from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError, UsageError
from avfuse.features.feature_names import PUBLISHED
from avfuse.features.media.reader import MediaFile
from avfuse.features.reproducibility import check_reproducible
from avfuse.features.spec import FeatureSpec
from avfuse.pipeline.prediction import MODALITY_WORDS, ClipPrediction, Prediction
from avfuse.pipeline.report.explain.media_files import explain_predictions
from avfuse.pipeline.report.explain.network_inputs import cached_inputs
from avfuse.pipeline.report.explain.rows import ExplanationSource
from avfuse.pipeline.report.run_reference import read_run_ref
from avfuse.stages.device import choose_device
from avfuse.stages.extract.engine import LocalEngine
from avfuse.stages.extract.run import extract
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.runs.predict import ClassProbabilities, FeatureSource, best_row, predict_clips
from avfuse.stages.fuse.runs.restore import saved_layouts
from avfuse.threads import available_cores

MAX_WINDOWS = 100_000
"""Of one file."""

_COLLECTION = "clips"

Seconds = Fraction | float | int


def predict(
    paths: Sequence[str | Path],
    run: str | Path,
    head: str | None = None,
    *,
    window: Seconds | None = None,
    hop: Seconds | None = None,
    weights: WeightsChoice = PUBLISHED,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = False,
    explain: str | Path | None = None,
) -> Prediction:
    """What trained heads say of media files.

    Features are extracted as for a data set, into a cache that is removed at the end, and heads predict as they were
    tested: for a file that is among the run's test clips it gives the probabilities of `load_predictions`.

    Args:
        paths: videos with or without sound, sound files; damaged ones cost themselves alone.
        run: a run's folder or a table's, or FOLDER:ROW.
        head: the row, where the run has several; by default the one of the best mean validation score.
        window, hop: seconds; every file is then predicted in windows, the next beginning `hop` after the last (default:
            `window`), and one more at the end where that is not reached otherwise. A shorter file is one window.
        weights: of backbones, where they are not the published ones.
        workers: decode processes, by default one per core.
        explain: a folder for a picture of each clip with what the heads look at, and explanations.csv, the numbers
            behind them; of windows, of the one of each file of which the heads are surest. See `explain_predictions`.

    Raises:
        UsageError: no such run or row, features that would come out otherwise here (other weights, another version), a
            window that is none.
    """
    started = time.perf_counter()
    if not paths:
        raise UsageError("no clip to predict: name one media file or more")
    ref = read_run_ref(str(run) if head is None else f"{run}:{head}")
    row, score = (ref.row, None) if ref.row is not None else best_row(ref.run)
    layouts = saved_layouts(ref.run, ref.run.heads[row][0])
    specs = [spec for layout in layouts.values() for spec in layout.specs]
    weights = _with_random(weights, specs)
    for spec in specs:
        check_reproducible(spec, weights)
    chosen = choose_device(device)
    clips = _clips([Path(path) for path in paths], window, hop)
    with tempfile.TemporaryDirectory(prefix="avfuse-predict-") as folder:
        cache = Path(folder)
        engine = LocalEngine([chosen], min(workers or available_cores(), len(clips)))
        absolute = [Clip(clip.clip_id, clip.path.absolute(), clip.start, clip.end) for clip in clips]
        kept = cached_inputs(specs) if explain is not None and window is None else []
        every = [*specs, *kept]
        summary = extract(absolute, every, cache, _COLLECTION, engine=engine, weights=weights, progress=progress)
        source = FeatureSource(cache, _COLLECTION)
        found = predict_clips(ref.run, row, absolute, source, chosen)
        silent = _silent(clips, found)
        predictions = [
            _prediction(index, clip, row, ref.run.targets, found, silent, summary.notes.get(clip.clip_id, ()))
            for index, clip in enumerate(clips)
        ]
        if explain is not None:
            pictures = ExplanationSource(source, kept, chosen)
            predictions = explain_predictions(ref.run, row, predictions, absolute, pictures, Path(explain))
    return Prediction(ref.run, row, score, predictions, time.perf_counter() - started)


def _with_random(weights: WeightsChoice, specs: Sequence[FeatureSpec]) -> WeightsChoice:
    """Random weights for the networks that the heads saw untrained, unless others are named."""
    untrained = dict.fromkeys(spec.model.backbone for spec in specs if spec.model is not None and spec.model.untrained)
    return WeightsChoice(weights.everywhere, (*((name, "random") for name in untrained), *weights.by_name))


def _clips(paths: Sequence[Path], window: Seconds | None, hop: Seconds | None) -> list[Clip]:
    """Whole files, or their windows. The same file may be given twice, so that ids are numbers."""
    if window is None:
        if hop is not None:
            raise UsageError("hop is how far windows are apart: say how long they are too (--window)")
        return [Clip(str(number), path) for number, path in enumerate(paths)]
    length = Fraction(window)
    step = length if hop is None else Fraction(hop)
    for name, value in (("window", length), ("hop", step)):
        if value <= 0:
            raise UsageError(f"{name} of {float(value):g} seconds: name more than 0")
    found: list[Clip] = []
    for path in paths:
        for start, end in _windows(path, length, step):
            found.append(Clip(str(len(found)), path, start, end))
    return found


def _windows(path: Path, length: Fraction, step: Fraction) -> Iterator[tuple[float | None, float | None]]:
    """The whole file where it cannot be read: what is wrong with it shows when it is extracted."""
    try:
        with MediaFile(path) as file:
            duration = file.duration
    except ClipError:
        yield None, None
        return
    if duration <= length:
        yield 0.0, float(duration)
        return
    last = (duration - length) // step
    if last >= MAX_WINDOWS:
        raise UsageError(f"{path}: {last + 1} windows, and {MAX_WINDOWS} are the most: take a longer hop (--hop)")
    for number in range(last + 1):
        yield float(number * step), float(number * step + length)
    if last * step + length < duration:
        yield float(duration - length), float(duration)


def _silent(clips: Sequence[Clip], found: ClassProbabilities) -> set[str]:
    """Ids of the clips whose sound was used and holds nothing."""
    heard = found.present.get("audio", np.zeros(len(clips), dtype=bool))
    by_path: dict[Path, list[Clip]] = {}
    for clip, is_heard in zip(clips, heard, strict=True):
        if is_heard:
            by_path.setdefault(clip.path, []).append(clip)
    silent = set()
    for path, its in by_path.items():
        with MediaFile(path) as file:
            silent |= {clip.clip_id for clip in its if file.read(start=clip.start, end=clip.end).sound == "silent"}
    return silent


def _prediction(
    index: int,
    clip: Clip,
    row: str,
    targets: Targets,
    found: ClassProbabilities,
    silent: set[str],
    notes: Sequence[str],
) -> ClipPrediction:
    used = tuple(name for name, present in found.present.items() if present[index])
    reasons = {name: why for name, why in found.missing[index].items() if name in found.present}
    if not used:
        problem = "; ".join(dict.fromkeys(reasons.values()))
        if len(found.present) == 1:
            problem += f" ({row} takes the {MODALITY_WORDS[next(iter(found.present))]} alone)"
        return ClipPrediction(clip.path, clip.start, clip.end, {}, used, tuple(notes), problem)
    alone = "; ".join(f"{why}: predicted from the {MODALITY_WORDS[used[0]]} alone" for why in reasons.values())
    said = [*([alone] if alone else []), *(["the sound is silent"] if clip.clip_id in silent else []), *notes]
    probabilities = {target.name: values[index] for target, values in zip(targets, found.probabilities, strict=True)}
    return ClipPrediction(clip.path, clip.start, clip.end, probabilities, used, tuple(said))
