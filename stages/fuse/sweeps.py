"""Which values of a sweep win, by validation alone."""

from dataclasses import dataclass

import numpy as np

from avfuse.stages.fuse.runs import HeadRun, Run, head_of


@dataclass(frozen=True)
class Winner:
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


def validation_score(run: Run, runs: list[HeadRun]) -> float:
    """Mean over seeds."""
    return float(np.mean([one.described["cost"][f"validation_{run.targets.selection}"] for one in runs]))


def winners(run: Run) -> list[Winner]:
    """One for each head that has several rows, in the run's order. Of equals the first wins."""
    rows: dict[str, list[str]] = {}
    for row in run.heads:
        rows.setdefault(head_of(row), []).append(row)
    return [_winner(run, head, of_head) for head, of_head in rows.items() if len(of_head) > 1]


def _winner(run: Run, head: str, rows: list[str]) -> Winner:
    best = max(rows, key=lambda row: validation_score(run, run.heads[row]))
    tests = [one.described["metrics"][run.targets.measure] for one in run.heads[best]]
    return Winner(head, best, len(rows), validation_score(run, run.heads[best]), float(np.mean(tests)))
