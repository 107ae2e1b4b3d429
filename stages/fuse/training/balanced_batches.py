"""Class-balanced batches (P classes x K clips): MMT's supervised contrastive losses need several clips per class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from avfuse.features.errors import UsageError


def balanced_batches(
    labels: Tensor, classes_per_batch: int, clips_per_class: int, generator: torch.Generator
) -> Tensor:
    """The batches of one epoch, P classes x K clips each, as many as come nearest to one visit per clip.

    Classes differ by at most one batch in how often they appear. The clips of a class take turns: all are visited
    before any is visited again, each time in a new random order. Only a class of fewer than K clips repeats some of
    them in a batch.

    Args:
        labels: int64 (n,), the classes of the training clips.
        classes_per_batch: P.
        clips_per_class: K.
        generator: on the CPU; the source of all randomness.

    Returns:
        int64 (batches, P * K): positions in labels, class by class.

    Raises:
        UsageError: there are fewer classes than P.
    """
    count, members = _members(labels)
    if not 1 <= classes_per_batch <= count:
        raise UsageError(
            f"batches of {classes_per_batch} classes: the training clips have {count}, ask for 1 to {count}"
        )
    batches = max(1, round(len(labels) / (classes_per_batch * clips_per_class)))
    schedule = _schedule(batches, count, classes_per_batch, generator)
    cycles = [_ClassCycle(clips, generator) for clips in members]
    rows = [[clip for number in classes for clip in cycles[number].take(clips_per_class)] for classes in schedule]
    return torch.tensor(rows, dtype=torch.int64, device=labels.device)


def _members(labels: Tensor) -> tuple[int, list[list[int]]]:
    """The number of classes, and the positions of the clips of each."""
    _, numbers, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    return len(counts), [part.tolist() for part in numbers.argsort(stable=True).split(counts.tolist())]


def _schedule(batches: int, classes: int, classes_per_batch: int, generator: torch.Generator) -> list[list[int]]:
    """The classes of each batch: those with the fewest batches so far, at random among equals."""
    visits = torch.zeros(classes)
    schedule = []
    for _ in range(batches):
        chosen = (visits + torch.rand(classes, generator=generator)).argsort()[:classes_per_batch]
        visits[chosen] += 1
        schedule.append(chosen.tolist())
    return schedule


class _ClassCycle:
    """The clips of a class, in one random order after another."""

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
