"""Rows of a results table from saved predictions, and the rows that validation selects in a sweep."""

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
    """One row of a run over its seeds, shares of 1. Costs are means, see `Cost`, and None where one is not known for
    every seed."""

    label: str
    seeds: int
    n_test: int
    score: float
    """Targets.measure, with its 95 % interval over seeds and groups of test clips."""
    low: float
    high: float
    seed_spread: float
    measures: dict[str, float]
    """The mean of every measure."""
    parameters: int
    macs: float | None
    backbone_macs: float | None
    training_macs: float | None
    seconds: float
    seconds_per_epoch: float | None
    peak_memory_mib: float | None


def summarise(run: Run) -> list[Row]:
    """One row per row of the run, in its order: means over seeds, with intervals and costs."""
    return [_row(run, results) for results in run.heads.values()]


def correct_matrix(targets: Targets, results: list[SeedResult]) -> NDArray[np.bool_]:
    """Whether each seed got each clip right in every target, (S, n_test)."""
    return np.stack([all_correct(targets, result.logits, result.truth) for result in results])


def chance(run: Run) -> float:
    """The accuracy of guessing, in every target at once."""
    first = next(iter(run.heads.values()))[0]
    shares = [
        float(truth.sum(axis=1).mean() if target.several else 1) / len(target.classes)
        for target, truth in zip(run.targets, first.truth, strict=True)
    ]
    return float(np.prod(shares))


def notes(run: Run) -> list[str]:
    """Notes below the table."""
    lines = [*_measures(run.targets), "Intervals: 95 %, over new seeds and new groups of test clips.", _COST]
    if any(len(results) == 1 for results in run.heads.values()):
        lines.append("With one seed, how much seeds vary is unknown: the interval is over groups of test clips alone.")
    if (few := few_groups_warning(run.groups)) is not None:
        lines.append(few)
    if run.described["clips"]["unlabelled"]:
        lines.append(f"{run.described['clips']['unlabelled']} unlabelled clips were predicted (avfuse runs export).")
    if run.described["training"]["shuffle_labels"]:
        lines.append("Control run: the training labels were shuffled, so chance is the right result.")
    if run.described["untrained"]:
        lines.append(f"UNTRAINED weights in {', '.join(run.described['untrained'])}: these numbers mean nothing.")
    return lines


def _measures(targets: Targets) -> list[str]:
    """Notes on the measures of several targets, or of several classes."""
    lines = []
    if len(targets) > 1:
        names = " and ".join(target.name for target in targets)
        lines.append(
            f"{'Action' if targets.joint == 'action' else 'All targets'}: {names} of a clip are right at once."
        )
    if targets.has_joint_top5:
        lines.append("Top-5: what is true is among the five likeliest combinations, by the product of probabilities.")
    if any(target.several for target in targets):
        lines.append("hit@1: the likeliest class is one of the clip's. mAP: mean over classes of average precision.")
    return [*lines, *(_several_classes_note(target, targets.selection) for target in targets if target.several)]


def _several_classes_note(target: LearnedTarget, selection: str) -> str:
    """Note on the training of a target of several classes, and on the classes that count as predicted."""
    counted = "F1 (micro) and subset (no class too many or too few) are of"
    if not target.sigmoid:
        return (
            f"{target.name}: trained with softmax, as every training clip has one class; {counted} the likeliest class."
        )
    chosen = "; the epoch is the one of the best mAP on validation" if selection == "map" else ""
    why = "as training clips have several"
    return f"{target.name}: trained with a sigmoid for each class, {why}; {counted} classes of 50 % or more{chosen}."


def _row(run: Run, results: list[SeedResult]) -> Row:
    scores = [result.described["metrics"][run.targets.measure] for result in results]
    span = interval(correct_matrix(run.targets, results), run.groups)
    return Row(
        label=results[0].row,
        seeds=len(results),
        n_test=results[0].described["metrics"]["n_test"],
        score=float(np.mean(scores)),
        low=span.low,
        high=span.high,
        seed_spread=float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan"),
        measures={name: _mean(results, "metrics", name) for name in results[0].described["metrics"]},
        parameters=results[0].described["cost"]["parameters"],
        macs=_mean_cost(results, "macs"),
        backbone_macs=_mean_cost(results, "backbone_macs"),
        training_macs=_mean_cost(results, "training_macs"),
        seconds=_mean(results, "cost", "seconds"),
        seconds_per_epoch=_mean_cost(results, "seconds_per_epoch"),
        peak_memory_mib=_mean_cost(results, "peak_memory_mib"),
    )


def _mean_cost(results: list[SeedResult], name: str) -> float | None:
    return None if any(result.described["cost"][name] is None for result in results) else _mean(results, "cost", name)


def _mean(results: list[SeedResult], part: str, name: str) -> float:
    return float(np.mean([result.described[part][name] for result in results]))


@dataclass(frozen=True)
class SelectedRow:
    """The best of a head's rows by its mean validation score over seeds."""

    head: str
    row: str
    rows: int
    """Number of rows of the head."""
    validation: float
    """Targets.selection on validation clips, a share of 1."""
    test: float
    """Targets.measure on test clips, a share of 1."""

    @property
    def values(self) -> str:
        """The selected values, as the user wrote them."""
        return self.row.partition(",")[2].replace(",", ", ")


def validation_score(run: Run, results: list[SeedResult]) -> float:
    """Targets.selection on validation clips, the mean over seeds."""
    return float(np.mean([result.described["cost"][f"validation_{run.targets.selection}"] for result in results]))


def selected_rows(run: Run) -> list[SelectedRow]:
    """The selected row of each head with several, in the run's order; of equals the first."""
    rows: dict[str, list[str]] = {}
    for row in run.heads:
        rows.setdefault(head_of(row), []).append(row)
    return [_selected_row(run, head, head_rows) for head, head_rows in rows.items() if len(head_rows) > 1]


def _selected_row(run: Run, head: str, rows: list[str]) -> SelectedRow:
    best = max(rows, key=lambda row: validation_score(run, run.heads[row]))
    tests = [result.described["metrics"][run.targets.measure] for result in run.heads[best]]
    return SelectedRow(head, best, len(rows), validation_score(run, run.heads[best]), float(np.mean(tests)))
