"""Batches in which classes are equally many: MMT's losses with labels need clips of one class side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from avfuse.features.errors import UsageError


def balanced_batches(
    labels: Tensor, classes_per_batch: int, clips_per_class: int, generator: torch.Generator
) -> Tensor:
    """The batches of one epoch, P classes x K clips each, as many as come nearest to one visit a clip.

    No class is in more than one batch more than another. Inside a class clips take turns: all are visited before one is
    visited again, each time in another order. A class of fewer than K clips repeats some of them in a batch; no other
    does.

    Args:
        labels: int64 (n,), the classes of the training clips.
        generator: on the CPU. What it gives decides everything.

    Returns:
        int64 (batches, P * K): positions in labels, class by class.

    Raises:
        UsageError: fewer classes than a batch is to have.
    """
    classes, members = _members(labels)
    if not 1 <= classes_per_batch <= classes:
        raise UsageError(
            f"batches of {classes_per_batch} classes: the training clips have {classes}, ask for 1 to {classes}"
        )
    batches = max(1, round(len(labels) / (classes_per_batch * clips_per_class)))
    schedule = _schedule(batches, classes, classes_per_batch, generator)
    turns = [_ClassCycle(each, generator) for each in members]
    rows = [[clip for each in batch for clip in turns[each].take(clips_per_class)] for batch in schedule]
    return torch.tensor(rows, dtype=torch.int64, device=labels.device)


def _members(labels: Tensor) -> tuple[int, list[list[int]]]:
    """How many classes there are, and the clips of each."""
    _, numbers, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    return len(counts), [part.tolist() for part in numbers.argsort(stable=True).split(counts.tolist())]


def _schedule(batches: int, classes: int, classes_per_batch: int, generator: torch.Generator) -> list[list[int]]:
    """The classes of each batch: those that were least often in one, chance deciding among equals."""
    visits = torch.zeros(classes)
    schedule = []
    for _ in range(batches):
        chosen = (visits + torch.rand(classes, generator=generator)).argsort()[:classes_per_batch]
        visits[chosen] += 1
        schedule.append(chosen.tolist())
    return schedule


class _ClassCycle:
    """Clips of a class, in one random order after the other."""

    def __init__(self, clips: Sequence[int], generator: torch.Generator) -> None:
        self._clips, self._generator = clips, generator
        self._waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        while len(self._waiting) < count:
            shuffled = [self._clips[i] for i in torch.randperm(len(self._clips), generator=self._generator).tolist()]
            already = set(self._waiting)  # not twice in a batch where one order meets the next
            self._waiting += sorted(shuffled, key=already.__contains__)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken
