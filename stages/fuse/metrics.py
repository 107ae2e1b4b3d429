"""What is measured on the test split, and how sure one can be of it."""

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_DRAWS = 10_000
_BOOTSTRAP_SEED = 0
FEW_GROUPS = 30
"""With fewer groups of test clips than this an interval is rough, and tables say so."""


def correct(logits: NDArray[np.float32], targets: NDArray[np.int64], k: int = 1) -> NDArray[np.bool_]:
    """Whether the target is among the k largest logits. (n, C), (n,) -> bool (n,). Ties go against the target."""
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    at_least_as_large = (logits >= own).sum(axis=1)  # counts the target itself
    return at_least_as_large <= k


def evaluate(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[str, float]:
    """Accuracies as shares of 1, and the mean negative log-likelihood in nats.

    `macro` is the mean over the classes that occur; `top5` is left out below six classes.
    """
    hits = correct(logits, targets)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_likelihood = np.take_along_axis(
        shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), targets[:, None], axis=1
    )
    measured = {
        "top1": float(hits.mean()),
        "macro": float(np.mean([hits[targets == target].mean() for target in np.unique(targets)])),
        "nll": float(-log_likelihood.mean()),
    }
    if logits.shape[1] > 5:
        measured["top5"] = float(correct(logits, targets, k=5).mean())
    return measured


def interval(scores: NDArray[np.floating], groups: NDArray[np.object_], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap of the mean over groups of clips.

    scores (n,): per-clip accuracy averaged over seeds; groups (n,): clips of one group share a scene and are not
    independent, so groups are drawn, not clips. Says nothing of seeds beyond their average.
    """
    _, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, weights=scores), np.bincount(member)
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    drawn = generator.integers(len(sums), size=(BOOTSTRAP_DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def confusion(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C, C): row = true class, column = share of its clips predicted as; rows of classes without clips are 0."""
    classes = logits.shape[1]
    counts = np.zeros((classes, classes))
    np.add.at(counts, (targets, logits.argmax(axis=1)), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
