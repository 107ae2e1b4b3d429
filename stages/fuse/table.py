"""Rows of a results table, from saved predictions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.fuse.experiment import HeadRun, Run
from stages.fuse.metrics import FEW_GROUPS, correct, interval


@dataclass(frozen=True)
class Row:
    """One head over its seeds: shares of 1, with the 95 % interval of top-1 over groups of test clips."""

    head: str
    seeds: int
    n_test: int
    top1: float
    low: float
    high: float
    seed_spread: float
    macro: float
    nll: float
    parameters: int
    seconds: float


def summarise(run: Run) -> list[Row]:
    """One row per head, in the run's order."""
    return [_row(runs, run.groups) for runs in run.heads.values()]


def clip_scores(runs: list[HeadRun]) -> NDArray[np.float64]:
    """(n_test,): the share of seeds that got each clip right."""
    return np.mean([correct(one.logits, one.targets) for one in runs], axis=0)


def notes(run: Run) -> list[str]:
    """What a reader of the table has to know."""
    groups = len(set(run.groups))
    found = ["Intervals: 95 %, bootstrap over groups of test clips, accuracies averaged over seeds."]
    if groups < FEW_GROUPS:
        found.append(f"Only {groups} groups of test clips: the intervals are rough (30 or more would be sound).")
    if run.described["training"]["shuffle_labels"]:
        found.append("Control run: the training labels were shuffled, so chance is the right result.")
    if run.described["untrained"]:
        found.append(f"UNTRAINED weights in {', '.join(run.described['untrained'])}: these numbers mean nothing.")
    return found


def _row(runs: list[HeadRun], groups: NDArray[np.object_]) -> Row:
    top1 = [one.described["metrics"]["top1"] for one in runs]
    low, high = interval(clip_scores(runs), groups)

    def mean(part: str, name: str) -> float:
        return float(np.mean([one.described[part][name] for one in runs]))

    return Row(
        head=runs[0].head,
        seeds=len(runs),
        n_test=runs[0].described["metrics"]["n_test"],
        top1=float(np.mean(top1)),
        low=low,
        high=high,
        seed_spread=float(np.std(top1, ddof=1)) if len(top1) > 1 else float("nan"),
        macro=mean("metrics", "macro"),
        nll=mean("metrics", "nll"),
        parameters=runs[0].described["cost"]["parameters"],
        seconds=mean("cost", "seconds"),
    )
