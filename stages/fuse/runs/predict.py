"""What trained heads say of clips that their run does not know, from features in a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.store import FAILED
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import Logits, Truth, log_softmax
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.runs.restore import restore_head, saved_layouts, saved_options, saved_recipe
from avfuse.stages.fuse.runs.run_folder import Run, RunFolder, SeedResult
from avfuse.stages.fuse.training.head_trainer import predict
from avfuse.stages.fuse.training.inputs import HeadInputs

_CLIPS, _BYTES = 1024, 2**28
"""Predicted at a time, at most."""


@dataclass(frozen=True)
class ClassProbabilities:
    """Of n clips, in order. probabilities: a target each, float64 (n, C), NaN for clips that have nothing which the
    heads take. present: the modalities that they take, by name, bool (n,). missing: for each clip, why it lacks a
    modality, by name."""

    probabilities: list[NDArray[np.float64]]
    present: Mapping[str, NDArray[np.bool_]]
    missing: list[dict[str, str]]


def best_row(run: Run) -> tuple[str, float]:
    """The row with the best mean over seeds of the validation score, Targets.selection, and that score; the first of
    equals. The test split has no say."""
    name = f"validation_{run.targets.selection}"
    scores = {row: float(np.mean([one.described["cost"][name] for one in heads])) for row, heads in run.heads.items()}
    return max(scores.items(), key=lambda item: item[1])


def predict_clips(
    run: Run, row: str, clips: Sequence[Clip], cache: Path, collection: str, device: str = "cpu"
) -> ClassProbabilities:
    """The probabilities of a row's classes, its seeds taken together as `load_predictions` takes them.

    cache, collection: where the features of `saved_layouts` have been extracted to. Clips take the same path as at
    test: `HeadInputs` with a head's own statistics, then `head_trainer.predict`. Raises UsageError as `restore_head`.
    """
    heads = run.heads[row]
    layouts = saved_layouts(run, heads[0])
    shapes = {name: layout.shape for name, layout in layouts.items()}
    trained = [(one, restore_head(one, shapes, run.targets, torch.device(device))) for one in heads]
    stores = {spec.key: FeatureStore(cache, collection, spec) for layout in layouts.values() for spec in layout.specs}
    size = max(1, min(_CLIPS, _BYTES // max(layout.bytes_per_clip for layout in layouts.values())))
    parts = [
        _predict(run, trained, layouts, stores, clips[first : first + size], device)
        for first in range(0, len(clips), size)
    ]
    return ClassProbabilities(
        [np.concatenate(each) for each in zip(*(part.probabilities for part in parts), strict=True)],
        {name: np.concatenate([part.present[name] for part in parts]) for name in parts[0].present},
        [missing for part in parts for missing in part.missing],
    )


def _predict(
    run: Run,
    trained: Sequence[tuple[SeedResult, Head]],
    layouts: Mapping[str, FeatureLayout],
    stores: Mapping[str, FeatureStore],
    clips: Sequence[Clip],
    device: str,
) -> ClassProbabilities:
    modalities, missing = load_clips(layouts, stores, clips, device)
    left_out = saved_recipe(trained[0][0]).without
    present = {name: each.present.cpu().numpy() for name, each in modalities.items() if name != left_out}
    usable = np.logical_or.reduce(list(present.values()))
    found = [np.full((len(clips), len(target.classes)), np.nan) for target in run.targets]
    if usable.any():
        indices = torch.from_numpy(np.flatnonzero(usable)).to(device)
        logits = []
        for one, head in trained:
            inputs = HeadInputs.of_trained(head, modalities, indices, saved_options(one), saved_recipe(one))
            logits.append(predict(head, inputs, indices).cpu().numpy())
        for every, target, scores in zip(found, run.targets, mean_scores(run.targets, logits), strict=True):
            every[usable] = probabilities(target, scores)
    return ClassProbabilities(found, present, missing)


def load_clips(
    layouts: Mapping[str, FeatureLayout], stores: Mapping[str, FeatureStore], clips: Sequence[Clip], device: str
) -> tuple[dict[str, Modality], list[dict[str, str]]]:
    """Features of some clips alone, by modality, from stores by key; and why a clip lacks a modality, by name."""
    asked = ClipQuery(clips)
    missing: list[dict[str, str]] = [{} for _ in clips]
    return {name: _modality(name, layout, stores, asked, missing, device) for name, layout in layouts.items()}, missing


def _modality(
    name: str,
    layout: FeatureLayout,
    stores: Mapping[str, FeatureStore],
    asked: ClipQuery,
    missing: Sequence[dict[str, str]],
    device: str,
) -> Modality:
    """One modality of clips, there where all its features are. Why it is not is added to `missing`."""
    rows = {}
    present = np.ones(len(asked), dtype=bool)
    for spec in layout.specs:
        loaded, found = stores[spec.key].load(asked), stores[spec.key].lookup(asked)
        rows[spec.key] = loaded.data
        present &= loaded.present
        for index in np.flatnonzero(~loaded.present).tolist():
            is_failure = found.outcome[index] == FAILED
            why = found.failure(index).message if is_failure else found.why_missing(index)
            missing[index].setdefault(name, why)
    return Modality.of(layout, rows, present, device)


@dataclass(frozen=True)
class Predictions:
    """Clips of one split, in order. scores: a target each, float64 (n, C), logarithms of probabilities, or log-odds of
    a target with sigmoid; truth: a target each, None for unlabelled clips."""

    run: Run
    clip_ids: list[str]
    scores: list[NDArray[np.float64]]
    truth: tuple[Truth, ...] | None
    seeds: list[int]


def load_predictions(folder: Path, head: str, split: str, seed: int | None = None) -> Predictions:
    """The predictions of one seed, or the mean of the logarithms of all seeds' probabilities (log-odds with sigmoid),
    normalised again: the geometric mean, which cares for no scale of logits.

    split: test or unlabelled. Raises UsageError for a head, a seed or a split that the run does not have.
    """
    run_folder = RunFolder(folder)
    known = run_folder.count_seeds()
    if head not in known:
        raise UsageError(f"{folder} holds no head '{head}': it has {', '.join(known) or 'none yet'}")
    run = run_folder.load(head)
    runs = [one for one in run.heads[head] if seed in (None, one.seed)]
    if not runs:
        seeds = ", ".join(str(one.seed) for one in run.heads[head])
        raise UsageError(f"{folder} holds no seed {seed} of {head}: it has {seeds}")
    labelled = split == "test"
    clip_ids, _ = _predicted(runs[0], labelled)
    if not clip_ids:
        raise UsageError(f"{folder} holds no predictions of {split} clips: '{run.described['dataset']}' has none")
    logits = [_predicted(one, labelled)[1] for one in runs]
    scores = mean_scores(run.targets, logits)
    return Predictions(run, clip_ids, scores, runs[0].truth if labelled else None, [one.seed for one in runs])


def mean_scores(targets: Targets, logits: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    """Several seeds' logits (n, width) taken together: a target each, (n, C), as `Predictions` has them."""
    by_target = zip(*map(targets.split, logits), strict=True)
    return [_mean_score(target, parts) for target, parts in zip(targets, by_target, strict=True)]


def probabilities(target: LearnedTarget, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What scores of a target stand for: probabilities that sum to 1 over the classes, or with sigmoid one for each."""
    return 1 / (1 + np.exp(-scores)) if target.sigmoid else np.exp(scores)  # type: ignore[no-any-return]


def _predicted(one: SeedResult, labelled: bool) -> tuple[list[str], NDArray[np.float32]]:
    return (one.clip_ids, one.logits) if labelled else one.unlabelled()


def _mean_score(target: LearnedTarget, logits: tuple[Logits, ...]) -> NDArray[np.float64]:
    if target.sigmoid:
        return np.mean(logits, axis=0, dtype=np.float64)  # type: ignore[no-any-return]
    return log_softmax(np.mean([log_softmax(each) for each in logits], axis=0))
