"""Measures on the test split; statistics.py has their confidence intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, label_ranking_average_precision_score

from avfuse.stages.fuse.data.targets import LearnedTarget, Targets

Logits = NDArray[np.floating]
Truth = NDArray[Any]
"""int64 (n,), or bool (n, C) where a clip has any number of classes."""

CALIBRATION_BINS = 15


def correct(logits: Logits, truth: Truth, k: int = 1) -> NDArray[np.bool_]:
    """Whether the true class, or one of several, is among the k largest logits. (n, C), truth -> bool (n,). Ties count
    as wrong."""
    if truth.ndim == 1:
        own = np.take_along_axis(logits, truth[:, None], axis=1)
        return (logits >= own).sum(axis=1) <= k  # counts the target itself
    best_own = np.where(truth, logits, -np.inf).max(axis=1, keepdims=True)
    others_before = ((logits >= best_own) & ~truth).sum(axis=1)
    return (others_before < k) & truth.any(axis=1)


def all_correct(targets: Targets, logits: Logits, truth: Sequence[Truth]) -> NDArray[np.bool_]:
    """Whether every target of a clip is right: (n, width), one truth per target -> bool (n,). Its mean for verb and
    noun is EPIC-KITCHENS' top-1 action accuracy."""
    return np.logical_and.reduce([correct(*target) for target in zip(targets.split(logits), truth, strict=True)])


def jointly_correct(parts: Sequence[Logits], truth: Sequence[NDArray[np.int64]], k: int) -> NDArray[np.bool_]:
    """Whether the true combination of classes is among the k likeliest by the product of probabilities, as
    EPIC-KITCHENS scores actions. Ties count as wrong.

    Only combinations of each target's k likeliest classes are compared: any other has k better ones.

    Args:
        parts: logits (n, C) per target.
        truth: class numbers (n,) per target.
        k: how many combinations count.

    Returns:
        bool (n,).
    """
    own = np.zeros(len(truth[0]))
    best = np.zeros((len(own), 1))
    within = np.ones(len(own), dtype=bool)
    for part, true in zip(parts, truth, strict=True):
        logs = log_softmax(part)
        own = own + np.take_along_axis(logs, true[:, None], axis=1)[:, 0]
        best = (best[:, :, None] + np.sort(logs, axis=1)[:, None, -k:]).reshape(len(own), -1)
        within &= correct(logs, true, k)
    return within & ((best >= own[:, None]).sum(axis=1) <= k)


def evaluate(targets: Targets, logits: Logits, truth: Sequence[Truth]) -> dict[str, float]:
    """Every measure of every target, as a share of 1, `nll` in nats. logits (n, width), one truth per target.

    With one class per clip: `top1`; `macro`, its mean over the classes that occur; `nll`, the mean negative
    log-likelihood; `macro_f1`, the mean over the classes that occur of F1; `ece` (see `calibration_error`); `top5`
    above five classes. With several: `hit1`, the class of the largest logit is one of the clip's;
    `map`, `f1`, `subset`, `lwlrap` (see `multi_label_metrics`). Of several targets, named `<target>_top1` and so on,
    and `<joint>_top1`, all of them right; `<joint>_top5` (see `jointly_correct`).
    """
    parts = targets.split(logits)
    by_target = [_target_metrics(*target) for target in zip(targets, parts, truth, strict=True)]
    if len(targets) == 1:
        return by_target[0]
    measured = {targets.measure: float(all_correct(targets, logits, truth).mean())}
    if targets.has_joint_top5:
        measured[f"{targets.joint}_top5"] = float(jointly_correct(parts, truth, k=5).mean())
    for target, values in zip(targets, by_target, strict=True):
        measured |= {f"{target.name}_{name}": value for name, value in values.items()}
    return measured


def _target_metrics(target: LearnedTarget, logits: Logits, truth: Truth) -> dict[str, float]:
    return multi_label_metrics(logits, truth, target.sigmoid) if target.several else single_label_metrics(logits, truth)


def single_label_metrics(logits: Logits, truth: NDArray[np.int64]) -> dict[str, float]:
    """Measures of a target with one class per clip: (n, C), (n,)."""
    hits = correct(logits, truth)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_likelihood = np.take_along_axis(
        shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), truth[:, None], axis=1
    )
    measured = {
        "top1": float(hits.mean()),
        "macro": float(np.mean([hits[truth == target].mean() for target in np.unique(truth)])),
        "nll": float(-log_likelihood.mean()),
        "macro_f1": float(f1_score(truth, logits.argmax(axis=1), labels=np.unique(truth), average="macro")),
        "ece": calibration_error(logits, truth),
    }
    if logits.shape[1] > 5:
        measured["top5"] = float(correct(logits, truth, k=5).mean())
    return measured


def multi_label_metrics(logits: Logits, truth: NDArray[np.bool_], sigmoid: bool) -> dict[str, float]:
    """Measures of a target with any number of classes per clip: (n, C), bool (n, C).

    `f1` is micro-averaged over clips and classes, `subset` the share of clips of which exactly the true classes are
    predicted; predicted are the classes of probability 0.5 or more, with softmax the one of the largest logit. `map` is
    the mean over classes that occur of their average precision, `lwlrap` the label-weighted label-ranking average
    precision.
    """
    predicted = logits >= 0 if sigmoid else np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
    return {
        "hit1": float(correct(logits, truth).mean()),
        "map": mean_average_precision(logits if sigmoid else log_softmax(logits), truth),
        "f1": float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())),
        "subset": float((predicted == truth).all(axis=1).mean()),
        "lwlrap": float(label_ranking_average_precision_score(truth, logits, sample_weight=truth.sum(axis=1))),
    }


def mean_average_precision(scores: Logits, truth: NDArray[np.bool_]) -> float:
    """scikit-learn's average precision, the mean over the classes that occur. (n, C), bool (n, C)."""
    classes = np.flatnonzero(truth.any(axis=0))
    return float(np.mean([average_precision_score(truth[:, number], scores[:, number]) for number in classes]))


def mean_probabilities(targets: Targets, logits: Sequence[Logits]) -> list[NDArray[np.float64]]:
    """Class probabilities of each target, averaged over heads: logits (n, width) per head -> float64 (n, C) per target,
    softmax over its classes, or with sigmoid one per class."""
    per_head = [
        [_probabilities(part, target.sigmoid) for target, part in zip(targets, targets.split(outputs), strict=True)]
        for outputs in logits
    ]
    return [np.mean(parts, axis=0) for parts in zip(*per_head, strict=True)]


def _probabilities(logits: Logits, sigmoid: bool) -> NDArray[np.float64]:
    if sigmoid:
        return 1 / (1 + np.exp(-logits, dtype=np.float64))  # type: ignore[no-any-return]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return exponentials / exponentials.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Log-probabilities. (n, C) -> float64 (n, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # type: ignore[no-any-return]


def calibration_error(logits: Logits, truth: NDArray[np.int64]) -> float:
    """Expected calibration error of the likeliest class (Guo et al. 2017): the difference of its softmax probability
    and its accuracy, in bins of equal width, weighted by their clips. (n, C), (n,)."""
    confidence = np.exp(log_softmax(logits).max(axis=1))
    member = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(member, weights=confidence - (logits.argmax(axis=1) == truth))
    return float(np.abs(gap).sum() / len(truth))


def per_class(logits: Logits, truth: Truth, classes: Sequence[str]) -> pd.DataFrame:
    """One row per class, in the order of `classes`: the number of its `clips`, and their `accuracy` as of `correct`,
    NaN without clips. (n, C), truth."""
    members = truth[:, None] == np.arange(len(classes)) if truth.ndim == 1 else truth
    clips = members.sum(axis=0)
    right = correct(logits, truth) @ members.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame({"clips": clips, "accuracy": right / clips}, index=pd.Index(classes, name="class"))


def confusion(logits: Logits, truth: Truth) -> NDArray[np.float64]:
    """Confusion matrix (C, C): the share of the clips of a row's class that are predicted as a column's; 0 for classes
    without clips. A clip of several classes is in the row of each, on the diagonal where any of them is predicted."""
    guess = logits.argmax(axis=1)
    counts = np.zeros((logits.shape[1], logits.shape[1]))
    if truth.ndim == 1:
        clips, true = np.arange(len(truth)), truth
    else:
        clips, true = np.nonzero(truth)
    right = truth[clips, guess[clips]] if truth.ndim == 2 else guess == true
    np.add.at(counts, (true, np.where(right, true, guess[clips])), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
