"""Predict the classes of media files with a run's heads: both stages, over a temporary cache."""

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
"""Per file."""

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
    """Predict the classes of media files.

    Features are extracted as for a data set, into a cache that is removed at the end, and heads predict as on test
    clips: a file that is one of them gets the probabilities of `load_predictions`.

    Args:
        paths: videos with or without sound, or sound files. One that cannot be read has a `problem`; the others are
            predicted.
        run: a run's folder or a table's, or FOLDER:ROW.
        head: the row, where the run has several; by default the one with the best mean validation score.
        window, hop: seconds. Each file is predicted in windows that start `hop` apart (default: `window`), with one
            more at the end where its last part is not covered. A shorter file is one window.
        weights: of backbones, where they are not the published ones.
        workers: number of decode processes, by default one per core.
        explain: a folder for one heatmap picture per clip and their numbers, explanations.csv; of windows, only the
            most confident one of each file is explained. See `explain_predictions`.

    Raises:
        UsageError: for an unknown run or row, features that this installation would not reproduce (other weights,
            another version), or a window or hop that is not positive.
    """
    started = time.perf_counter()
    if not paths:
        raise UsageError("no clip to predict: name one media file or more")
    ref = read_run_ref(str(run) if head is None else f"{run}:{head}")
    row, score = (ref.row, None) if ref.row is not None else best_row(ref.run)
    layouts = saved_layouts(ref.run, ref.run.heads[row][0])
    specs = [spec for layout in layouts.values() for spec in layout.specs]
    weights = _add_random_weights(weights, specs)
    for spec in specs:
        check_reproducible(spec, weights)
    device = choose_device(device)
    clips = _clips([Path(path) for path in paths], window, hop)
    with tempfile.TemporaryDirectory(prefix="avfuse-predict-") as folder:
        cache = Path(folder)
        engine = LocalEngine([device], min(workers or available_cores(), len(clips)))
        absolute = [Clip(clip.clip_id, clip.path.absolute(), clip.start, clip.end) for clip in clips]
        # pictures for heatmaps are decoded in the same pass as features
        pictures = cached_inputs(specs) if explain is not None and window is None else []
        all_specs = [*specs, *pictures]
        summary = extract(absolute, all_specs, cache, _COLLECTION, engine=engine, weights=weights, progress=progress)
        source = FeatureSource(cache, _COLLECTION)
        result = predict_clips(ref.run, row, absolute, source, device)
        silent = _silent_clips(clips, result)
        predictions = [
            _clip_prediction(index, clip, row, ref.run.targets, result, silent, summary.notes.get(clip.clip_id, ()))
            for index, clip in enumerate(clips)
        ]
        if explain is not None:
            explained = ExplanationSource(source, pictures, device)
            predictions = explain_predictions(ref.run, row, predictions, absolute, explained, Path(explain))
    return Prediction(ref.run, row, score, predictions, time.perf_counter() - started)


def _add_random_weights(weights: WeightsChoice, specs: Sequence[FeatureSpec]) -> WeightsChoice:
    """The choice of weights, with random ones for networks that were untrained in the run, unless others are named."""
    untrained = dict.fromkeys(spec.model.backbone for spec in specs if spec.model is not None and spec.model.untrained)
    return WeightsChoice(weights.everywhere, (*((name, "random") for name in untrained), *weights.by_name))


def _clips(paths: Sequence[Path], window: Seconds | None, hop: Seconds | None) -> list[Clip]:
    """Clips of whole files, or of their windows. Ids are numbers, as one file may be named twice."""
    if window is None:
        if hop is not None:
            raise UsageError("--hop is the distance between windows: name their length too (--window)")
        return [Clip(str(number), path) for number, path in enumerate(paths)]
    length = Fraction(window)
    step = length if hop is None else Fraction(hop)
    for name, value in (("window", length), ("hop", step)):
        if value <= 0:
            raise UsageError(f"{name} of {float(value):g} seconds: it must be positive")
    windows = ((path, start, end) for path in paths for start, end in _windows(path, length, step))
    return [Clip(str(number), path, start, end) for number, (path, start, end) in enumerate(windows)]


def _windows(path: Path, length: Fraction, step: Fraction) -> Iterator[tuple[float | None, float | None]]:
    """Starts and ends of windows in seconds. A file that cannot be read is one clip, which fails in extraction."""
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
        raise UsageError(f"{path}: {last + 1} windows, more than {MAX_WINDOWS}: take a longer hop (--hop)")
    for number in range(last + 1):
        yield float(number * step), float(number * step + length)
    if last * step + length < duration:
        yield float(duration - length), float(duration)


def _silent_clips(clips: Sequence[Clip], result: ClassProbabilities) -> set[str]:
    """Ids of clips whose sound was used and is silent."""
    has_sound = result.present.get("audio", np.zeros(len(clips), dtype=bool))
    by_path: dict[Path, list[Clip]] = {}
    for clip, has_its_sound in zip(clips, has_sound, strict=True):
        if has_its_sound:
            by_path.setdefault(clip.path, []).append(clip)
    silent = set()
    for path, windows in by_path.items():
        with MediaFile(path) as file:
            silent |= {clip.clip_id for clip in windows if file.read(start=clip.start, end=clip.end).sound == "silent"}
    return silent


def _clip_prediction(
    index: int,
    clip: Clip,
    row: str,
    targets: Targets,
    result: ClassProbabilities,
    silent: set[str],
    notes: Sequence[str],
) -> ClipPrediction:
    used = tuple(name for name, present in result.present.items() if present[index])
    reasons = {name: why for name, why in result.missing[index].items() if name in result.present}
    if not used:
        problem = "; ".join(dict.fromkeys(reasons.values()))
        if len(result.present) == 1:
            problem += f" ({row} takes the {MODALITY_WORDS[next(iter(result.present))]} alone)"
        return ClipPrediction(clip.path, clip.start, clip.end, {}, used, tuple(notes), problem)
    alone = "; ".join(f"{why}: predicted from the {MODALITY_WORDS[used[0]]} alone" for why in reasons.values())
    caveats = [*([alone] if alone else []), *(["the sound is silent"] if clip.clip_id in silent else []), *notes]
    probabilities = {target.name: values[index] for target, values in zip(targets, result.probabilities, strict=True)}
    return ClipPrediction(clip.path, clip.start, clip.end, probabilities, used, tuple(caveats))
