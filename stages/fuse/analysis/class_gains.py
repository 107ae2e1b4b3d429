"""Classes and confusions in which one row is better or worse than another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import Logits, Truth, confusion, correct
from avfuse.stages.fuse.runs.run_folder import SeedResult

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"gains": "class_gains", "Gains": "ClassGains"})


@dataclass(frozen=True)
class ClassGains:
    """Per target, averaged over seeds; shares of 1.

    Of a target of several classes a clip counts under each of its classes. It is right where the likeliest class is any
    of them, else it is a confusion of each of them with that class, as in `metrics.confusion`.
    """

    classes: pd.DataFrame
    """A line per class that test clips have, the largest gain first: `target`, `class`, its `clips`; `before` and
    `after`, the share of them that is right, `difference`; `fixed` and `broken`, how many clips are wrong before and
    right after and the reverse, averaged over all pairs of a seed before and a seed after, so that fixed - broken =
    clips x difference."""
    confusions: pd.DataFrame
    """A line per pair of classes that are confused more or less often, the largest change first: `target`, `true`,
    `predicted`, `clips` of the true class; `before` and `after`, the share of them, `difference`."""


def class_gains(targets: Targets, before: Sequence[SeedResult], after: Sequence[SeedResult]) -> ClassGains:
    """Compare the seeds of two rows. Raises UsageError unless they predict the same test clips."""
    first, other = before[0], after[0]
    if first.clip_ids != other.clip_ids or not all(map(np.array_equal, first.truth, other.truth)):
        raise UsageError(
            f"rows '{first.row}' and '{other.row}' are not of the same test clips with the same classes: compare rows "
            "of one data set on features of the same clips"
        )
    classes, confusions = [], []
    of_before, of_after = (
        list(zip(*(targets.split(result.logits) for result in results), strict=True)) for results in (before, after)
    )
    for target, truth, was, now in zip(targets, first.truth, of_before, of_after, strict=True):
        classes.append(_classes(target, truth, was, now))
        confusions.append(_confusions(target, truth, was, now))
    return ClassGains(pd.concat(classes, ignore_index=True), pd.concat(confusions, ignore_index=True))


def _classes(target: LearnedTarget, truth: Truth, before: Sequence[Logits], after: Sequence[Logits]) -> pd.DataFrame:
    """before, after: the logits of each seed, (n, C)."""
    was, now = (np.mean([correct(logits, truth) for logits in seeds], axis=0) for seeds in (before, after))
    rows = []
    for number, name in enumerate(target.classes):
        of_class = truth[:, number] if truth.ndim == 2 else truth == number
        if not of_class.any():
            continue
        rows.append(
            {
                "target": target.name,
                "class": name,
                "clips": int(of_class.sum()),
                "before": was[of_class].mean(),
                "after": now[of_class].mean(),
                "difference": (now - was)[of_class].mean(),
                "fixed": ((1 - was) * now)[of_class].sum(),
                "broken": (was * (1 - now))[of_class].sum(),
            }
        )
    return pd.DataFrame(rows).sort_values("difference", ascending=False, kind="stable")


def _confusions(target: LearnedTarget, truth: Truth, before: Sequence[Logits], after: Sequence[Logits]) -> pd.DataFrame:
    """before, after: the logits of each seed, (n, C)."""
    was, now = (np.mean([confusion(logits, truth) for logits in seeds], axis=0) for seeds in (before, after))
    counts = truth.sum(axis=0) if truth.ndim == 2 else np.bincount(truth, minlength=len(was))
    change = now - was
    np.fill_diagonal(change, 0)
    true, predicted = np.nonzero(change)
    table = pd.DataFrame(
        {
            "target": target.name,
            "true": np.array(target.classes, dtype=object)[true],
            "predicted": np.array(target.classes, dtype=object)[predicted],
            "clips": counts[true],
            "before": was[true, predicted],
            "after": now[true, predicted],
            "difference": change[true, predicted],
        }
    )
    return table.sort_values("difference", key=abs, ascending=False, kind="stable")
