"""What one head of a run says of each clip, its seeds taken together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.metrics import Logits, Truth, log_softmax
from avfuse.stages.fuse.runs import HeadRun, Run, load_run, seeds_of_heads
from avfuse.stages.fuse.targets import LearnedTarget, Targets


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
    known = seeds_of_heads(folder)
    if head not in known:
        raise UsageError(f"{folder} holds no head '{head}': it has {', '.join(known) or 'none yet'}")
    run = load_run(folder, head)
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


def _predicted(one: HeadRun, labelled: bool) -> tuple[list[str], NDArray[np.float32]]:
    return (one.clip_ids, one.logits) if labelled else one.unlabelled()


def _mean_score(target: LearnedTarget, logits: tuple[Logits, ...]) -> NDArray[np.float64]:
    if target.sigmoid:
        return np.mean(logits, axis=0, dtype=np.float64)  # type: ignore[no-any-return]
    return log_softmax(np.mean([log_softmax(each) for each in logits], axis=0))
