"""Test clips on which rows disagree, and the predictions of rows for them."""

import numpy as np
from numpy.typing import NDArray

from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.metrics import Truth, mean_probabilities
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult


def most_disputed(run: Run, count: int) -> list[int]:
    """Indices of `count` test clips, most disagreement between rows first, spread over as many classes as possible."""
    first = next(iter(run.heads.values()))[0]
    logits = [[result.logits for result in results] for results in run.heads.values()]
    right = np.stack([likeliest_correct(mean_probabilities(run.targets, of_head), first.truth) for of_head in logits])
    disagreement = np.minimum(right.sum(axis=0), (~right).sum(axis=0))
    order = np.argsort(-disagreement, kind="stable")
    labels = [true_label(run.targets, first, index) for index in range(len(order))]
    chosen: list[int] = []
    while len(chosen) < min(count, len(order)):
        seen = [labels[index] for index in chosen]
        left = [index for index in order if index not in chosen]
        rarest = min(seen.count(labels[index]) for index in left)
        chosen.append(int(next(index for index in left if seen.count(labels[index]) == rarest)))
    return chosen


def true_label(targets: Targets, run: SeedResult, index: int) -> str:
    """The true classes of a test clip, such as `take + plate`, or `dog barking | wind noise` of one target."""
    named = []
    for target, truth in zip(targets, run.truth, strict=True):
        true = np.flatnonzero(truth[index]) if target.several else [truth[index]]
        named.append(" | ".join(target.classes[index] for index in true))
    return " + ".join(named)


def likeliest_correct(parts: list[NDArray[np.float64]], truth: tuple[Truth, ...]) -> NDArray[np.bool_]:
    """Whether the likeliest class of every target is correct: bool (n,), from probabilities (n, C) and truth per
    target."""
    right = []
    for probabilities, true in zip(parts, truth, strict=True):
        guess = probabilities.argmax(axis=1)
        right.append(guess == true if true.ndim == 1 else true[np.arange(len(guess)), guess])
    return np.logical_and.reduce(right)
