"""Predictions of trained heads: those saved in a run, and of clips outside it whose features are cached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.store import FAILED
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import Logits, Truth, log_softmax
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.runs.restore import restore_head, saved_layouts, saved_options, saved_recipe
from avfuse.stages.fuse.runs.run_folder import Run, RunFolder, SeedResult
from avfuse.stages.fuse.runs.summary import validation_score
from avfuse.stages.fuse.training.head_trainer import predict
from avfuse.stages.fuse.training.inputs import HeadInputs

_CLIPS, _BYTES = 1024, 2**28
"""Limits of clips predicted at once."""


@dataclass(frozen=True)
class FeatureSource:
    """Source of clips' cached features."""

    cache: Path
    collection: str

    def store(self, spec: FeatureSpec) -> FeatureStore:
        return FeatureStore(self.cache, self.collection, spec)


@dataclass(frozen=True)
class ClassProbabilities:
    """Predictions of n clips, in order."""

    probabilities: list[NDArray[np.float64]]
    """Per target (n, C); NaN for clips with none of the modalities that the heads use."""
    present: Mapping[str, NDArray[np.bool_]]
    """The modalities that the heads use, by name, (n,)."""
    missing: list[dict[str, str]]
    """Per clip, the reason why it lacks a modality, by name."""


@dataclass(frozen=True)
class RestoredRow:
    """The heads of a row, restored for clips that need not be of its data set."""

    results: Sequence[SeedResult]
    heads: Sequence[Head]
    layouts: Mapping[str, FeatureLayout]
    targets: Targets
    device: str

    @classmethod
    def of(cls, run: Run, row: str, device: str) -> Self:
        """Raises UsageError as `restore_head`."""
        results = run.heads[row]
        layouts = saved_layouts(run, results[0])
        shapes = {name: layout.shape for name, layout in layouts.items()}
        heads = [restore_head(result, shapes, run.targets, torch.device(device)) for result in results]
        return cls(results, heads, layouts, run.targets, device)

    def load(self, clips: Sequence[Clip], source: FeatureSource) -> tuple[dict[str, Modality], list[dict[str, str]]]:
        """The clips' features by modality, and for each clip why it lacks a modality, by name."""
        query = ClipQuery(clips)
        missing: list[dict[str, str]] = [{} for _ in clips]
        modalities = {
            name: _modality(name, layout, source, query, missing, self.device) for name, layout in self.layouts.items()
        }
        return modalities, missing

    def predict(self, clips: Sequence[Clip], source: FeatureSource) -> ClassProbabilities:
        """Mean probabilities over seeds, as `load_predictions` averages them."""
        modalities, missing = self.load(clips, source)
        without = saved_recipe(self.results[0]).without
        present = {name: modality.present.cpu().numpy() for name, modality in modalities.items() if name != without}
        usable = np.logical_or.reduce(list(present.values()))
        by_target = [np.full((len(clips), len(target.classes)), np.nan) for target in self.targets]
        if usable.any():
            indices = torch.from_numpy(np.flatnonzero(usable)).to(self.device)
            logits = []
            for result, head in zip(self.results, self.heads, strict=True):
                options, recipe = saved_options(result), saved_recipe(result)
                inputs = HeadInputs.of_trained(head, modalities, indices, options, recipe)
                logits.append(predict(head, inputs, indices).cpu().numpy())
            scores = mean_scores(self.targets, logits)
            for values, target, of_target in zip(by_target, self.targets, scores, strict=True):
                values[usable] = probabilities(target, of_target)
        return ClassProbabilities(by_target, present, missing)


def best_row(run: Run) -> tuple[str, float]:
    """The row with the best mean validation score over seeds, and that score; the first of equals. Test clips have no
    part in it."""
    scores = {row: validation_score(run, results) for row, results in run.heads.items()}
    return max(scores.items(), key=lambda item: item[1])


def predict_clips(
    run: Run, row: str, clips: Sequence[Clip], source: FeatureSource, device: str = "cpu"
) -> ClassProbabilities:
    """The probabilities of a row's classes, averaged over its seeds as `load_predictions` averages them.

    Clips take the same path as at test: `HeadInputs` with a head's own statistics, then `head_trainer.predict`. Raises
    UsageError as `restore_head`.

    Args:
        source: the cache that holds the features of `saved_layouts`.
    """
    restored = RestoredRow.of(run, row, device)
    size = max(1, min(_CLIPS, _BYTES // max(layout.bytes_per_clip for layout in restored.layouts.values())))
    parts = [restored.predict(clips[first : first + size], source) for first in range(0, len(clips), size)]
    return ClassProbabilities(
        [np.concatenate(of_target) for of_target in zip(*(part.probabilities for part in parts), strict=True)],
        {name: np.concatenate([part.present[name] for part in parts]) for name in parts[0].present},
        [missing for part in parts for missing in part.missing],
    )


def _modality(
    name: str,
    layout: FeatureLayout,
    source: FeatureSource,
    query: ClipQuery,
    missing: Sequence[dict[str, str]],
    device: str,
) -> Modality:
    """One modality, present where all its features are; the reasons where it is not are added to `missing`."""
    rows = {}
    present = np.ones(len(query), dtype=bool)
    for spec in layout.specs:
        store = source.store(spec)
        loaded, lookup = store.load(query), store.lookup(query)
        rows[spec.key] = loaded.data
        present &= loaded.present
        for index in np.flatnonzero(~loaded.present).tolist():
            is_failure = lookup.outcome[index] == FAILED
            why = lookup.failure(index).message if is_failure else lookup.why_missing(index)
            missing[index].setdefault(name, why)
    return Modality.of(layout, rows, present, device)


@dataclass(frozen=True)
class Predictions:
    """Predictions of the clips of one split, in order."""

    run: Run
    clip_ids: list[str]
    scores: list[NDArray[np.float64]]
    """Per target (n, C), logarithms of probabilities, or log-odds of a target with sigmoid."""
    truth: tuple[Truth, ...] | None
    """Per target; None for unlabelled clips."""
    seeds: list[int]


def load_predictions(folder: Path, head: str, split: str, seed: int | None = None) -> Predictions:
    """Load the predictions of one seed, or the normalised geometric mean of all seeds' probabilities (the mean of their
    log-odds with sigmoid), which does not depend on the scale of logits.

    Args:
        head: the row.
        split: `test` or `unlabelled`.
        seed: by default all.

    Raises:
        UsageError: a head, a seed or a split that the run does not have.
    """
    run_folder = RunFolder(folder)
    known = run_folder.count_seeds()
    if head not in known:
        raise UsageError(f"{folder} holds no head '{head}': it has {', '.join(known) or 'none yet'}")
    run = run_folder.load(head)
    results = [result for result in run.heads[head] if seed in (None, result.seed)]
    if not results:
        seeds = ", ".join(str(result.seed) for result in run.heads[head])
        raise UsageError(f"{folder} holds no seed {seed} of {head}: it has {seeds}")
    labelled = split == "test"
    clip_ids, _ = _clips_and_logits(results[0], labelled)
    if not clip_ids:
        raise UsageError(f"{folder} holds no predictions of {split} clips: '{run.described['dataset']}' has none")
    logits = [_clips_and_logits(result, labelled)[1] for result in results]
    scores = mean_scores(run.targets, logits)
    truth = results[0].truth if labelled else None
    return Predictions(run, clip_ids, scores, truth, [result.seed for result in results])


def mean_scores(targets: Targets, logits: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    """The mean over seeds of their logits (n, width), per target (n, C), as `Predictions.scores`."""
    by_target = zip(*map(targets.split, logits), strict=True)
    return [_mean_score(target, parts) for target, parts in zip(targets, by_target, strict=True)]


def probabilities(target: LearnedTarget, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities from a target's `Predictions.scores`: summing to 1 over the classes, or with sigmoid one each."""
    return 1 / (1 + np.exp(-scores)) if target.sigmoid else np.exp(scores)  # type: ignore[no-any-return]


def _clips_and_logits(result: SeedResult, labelled: bool) -> tuple[list[str], NDArray[np.float32]]:
    return (result.clip_ids, result.logits) if labelled else result.unlabelled()


def _mean_score(target: LearnedTarget, logits: tuple[Logits, ...]) -> NDArray[np.float64]:
    if target.sigmoid:
        return np.mean(logits, axis=0, dtype=np.float64)  # type: ignore[no-any-return]
    return log_softmax(np.mean([log_softmax(of_seed) for of_seed in logits], axis=0))
