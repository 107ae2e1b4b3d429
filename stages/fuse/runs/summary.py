"""Rows of a results table, from saved predictions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avfuse.moved_modules import renamed
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import all_correct
from avfuse.stages.fuse.evaluation.statistics import few_groups_warning, interval
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult, head_of

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"hits": "correct_matrix"})

_COST = (
    "GMACs: 10^9 multiply-adds for one clip at test; of backbones every frame, audio image and window, each pass once "
    "(-: not known). In results.csv: those of a training step, and peak memory, on a CPU that of the whole process, "
    "which heads trained side by side share."
)


@dataclass(frozen=True)
class Row:
    """One row of a run over its seeds: shares of 1. `score` is that of Targets.measure, with its 95 % interval over
    seeds and groups of test clips; `measures` has the means of all that was measured. Costs are means, see Cost, and
    None where one is not known of every seed."""

    label: str
    seeds: int
    n_test: int
    score: float
    low: float
    high: float
    seed_spread: float
    measures: dict[str, float]
    parameters: int
    macs: float | None
    backbone_macs: float | None
    training_macs: float | None
    seconds: float
    seconds_per_epoch: float | None
    peak_memory_mib: float | None


def summarise(run: Run) -> list[Row]:
    """One row per head, in the run's order: means over its seeds, with intervals and costs."""
    return [_row(run, runs) for runs in run.heads.values()]


def correct_matrix(targets: Targets, runs: list[SeedResult]) -> NDArray[np.bool_]:
    """(S, n_test): whether each seed got each clip right, every target of it."""
    return np.stack([all_correct(targets, one.logits, one.truth) for one in runs])


def chance(run: Run) -> float:
    """The share of test clips that guessing gets right, every target of them."""
    one = next(iter(run.heads.values()))[0]
    shares = [
        float(truth.sum(axis=1).mean() if target.several else 1) / len(target.classes)
        for target, truth in zip(run.targets, one.truth, strict=True)
    ]
    return float(np.prod(shares))


def notes(run: Run) -> list[str]:
    """What a reader of the table has to know."""
    found = [*_measures(run.targets), "Intervals: 95 %, over new seeds and new groups of test clips.", _COST]
    if any(len(runs) == 1 for runs in run.heads.values()):
        found.append("With one seed, how much seeds vary is unknown: the interval is over groups of test clips alone.")
    if (few := few_groups_warning(run.groups)) is not None:
        found.append(few)
    if run.described["clips"]["unlabelled"]:
        found.append(f"{run.described['clips']['unlabelled']} unlabelled clips were predicted (avfuse runs export).")
    if run.described["training"]["shuffle_labels"]:
        found.append("Control run: the training labels were shuffled, so chance is the right result.")
    if run.described["untrained"]:
        found.append(f"UNTRAINED weights in {', '.join(run.described['untrained'])}: these numbers mean nothing.")
    return found


def _measures(targets: Targets) -> list[str]:
    """What is measured where clips have other than one target of one class."""
    found = []
    if len(targets) > 1:
        names = " and ".join(target.name for target in targets)
        found.append(
            f"{'Action' if targets.joint == 'action' else 'All targets'}: {names} of a clip are right at once."
        )
    if targets.has_joint_top5:
        found.append("Top-5: what is true is among the five likeliest combinations, by the product of probabilities.")
    if any(target.several for target in targets):
        found.append("hit@1: the likeliest class is one of the clip's. mAP: mean over classes of average precision.")
    return [*found, *(_of_several(target, targets.selection) for target in targets if target.several)]


def _of_several(target: LearnedTarget, selection: str) -> str:
    """How a target of several classes was trained, and what counts as predicted."""
    counted = "F1 (micro) and subset (no class too many or too few) are of"
    if not target.sigmoid:
        return (
            f"{target.name}: trained with softmax, as every training clip has one class; {counted} the likeliest class."
        )
    chosen = "; the epoch is the one of the best mAP on validation" if selection == "map" else ""
    why = "as training clips have several"
    return f"{target.name}: trained with a sigmoid for each class, {why}; {counted} classes of 50 % or more{chosen}."


def _row(run: Run, runs: list[SeedResult]) -> Row:
    scores = [one.described["metrics"][run.targets.measure] for one in runs]
    span = interval(correct_matrix(run.targets, runs), run.groups)
    return Row(
        label=runs[0].row,
        seeds=len(runs),
        n_test=runs[0].described["metrics"]["n_test"],
        score=float(np.mean(scores)),
        low=span.low,
        high=span.high,
        seed_spread=float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan"),
        measures={name: _mean(runs, "metrics", name) for name in runs[0].described["metrics"]},
        parameters=runs[0].described["cost"]["parameters"],
        macs=_mean_cost(runs, "macs"),
        backbone_macs=_mean_cost(runs, "backbone_macs"),
        training_macs=_mean_cost(runs, "training_macs"),
        seconds=_mean(runs, "cost", "seconds"),
        seconds_per_epoch=_mean_cost(runs, "seconds_per_epoch"),
        peak_memory_mib=_mean_cost(runs, "peak_memory_mib"),
    )


def _mean_cost(runs: list[SeedResult], name: str) -> float | None:
    return None if any(one.described["cost"][name] is None for one in runs) else _mean(runs, "cost", name)


def _mean(runs: list[SeedResult], part: str, name: str) -> float:
    return float(np.mean([one.described[part][name] for one in runs]))


@dataclass(frozen=True)
class SelectedRow:
    """The best of a head's rows by the mean over seeds of Targets.selection on validation, of so many; shares of 1. The
    share on test is that of Targets.measure."""

    head: str
    row: str
    rows: int
    validation: float
    test: float

    @property
    def values(self) -> str:
        """What was chosen, as the user wrote it."""
        return self.row.partition(",")[2].replace(",", ", ")


def validation_score(run: Run, runs: list[SeedResult]) -> float:
    """Mean over seeds."""
    return float(np.mean([one.described["cost"][f"validation_{run.targets.selection}"] for one in runs]))


def selected_rows(run: Run) -> list[SelectedRow]:
    """One for each head that has several rows, in the run's order. Of equals the first wins."""
    rows: dict[str, list[str]] = {}
    for row in run.heads:
        rows.setdefault(head_of(row), []).append(row)
    return [_winner(run, head, of_head) for head, of_head in rows.items() if len(of_head) > 1]


def _winner(run: Run, head: str, rows: list[str]) -> SelectedRow:
    best = max(rows, key=lambda row: validation_score(run, run.heads[row]))
    tests = [one.described["metrics"][run.targets.measure] for one in run.heads[best]]
    return SelectedRow(head, best, len(rows), validation_score(run, run.heads[best]), float(np.mean(tests)))
