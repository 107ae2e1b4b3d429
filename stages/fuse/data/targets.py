"""What heads learn of a clip: one target or several, whose logits stand side by side."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.manifests import Target

Logits = TypeVar("Logits", Tensor, NDArray[np.floating])


@dataclass(frozen=True)
class LearnedTarget(Target):
    """A target and what its logits mean: the softmax over its classes, or with `sigmoid` a probability of its own for
    each class, which only a target of several classes has."""

    sigmoid: bool = False

    @property
    def measure(self) -> str:
        """The share of clips that count as right: the one class has the largest logit, or the class of the largest
        logit is one of the clip's."""
        return "hit1" if self.several else "top1"


@dataclass(frozen=True)
class Targets:
    """The targets of a data set in the order of their logits (B, width). The truth of n clips is one tensor a target:
    int64 (n,), -1 where unknown, or bool (n, classes) for a target of several classes.

    Raises UsageError when a target has the name under which all of them together are reported.
    """

    items: tuple[LearnedTarget, ...]

    def __post_init__(self) -> None:
        if len(self.items) > 1 and self.joint in (target.name for target in self.items):
            raise UsageError(f"one of several targets cannot be called '{self.joint}': rename its column")

    def __iter__(self) -> Iterator[LearnedTarget]:
        return iter(self.items)

    def __getitem__(self, number: int) -> LearnedTarget:
        return self.items[number]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def width(self) -> int:
        """Logits of a clip: the classes of all targets together."""
        return sum(len(target.classes) for target in self.items)

    def split(self, logits: Logits) -> list[Logits]:
        """(B, width) -> (B, classes) for each target."""
        sizes = [len(target.classes) for target in self.items]
        return [logits[:, end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]

    @property
    def joint(self) -> str:
        """What all targets together are called: a verb with its noun is an action, in EPIC-KITCHENS' words."""
        return "action" if {target.name for target in self.items} == {"verb", "noun"} else "all"

    @property
    def measure(self) -> str:
        """The measure that heads are compared by: the share of clips of which every target is right."""
        return f"{self.joint}_top1" if len(self.items) > 1 else self.items[0].measure

    @property
    def has_joint_top5(self) -> bool:
        """Whether the five likeliest combinations say something: one class a target, and more than five to combine."""
        combinations = math.prod(len(target.classes) for target in self.items)
        return len(self.items) > 1 and not any(target.several for target in self.items) and combinations > 5

    @property
    def selection(self) -> str:
        """The measure on validation that picks the epoch: the same, but for a single target with sigmoid, of which the
        largest logit says little, the mean average precision."""
        return "map" if len(self.items) == 1 and self.items[0].sigmoid else self.measure

    def to_dicts(self) -> list[dict[str, Any]]:
        """As plain values."""
        return [asdict(target) for target in self.items]

    @classmethod
    def from_dicts(cls, dicts: Sequence[dict[str, Any]]) -> "Targets":
        """The reverse of `to_dicts`."""
        return cls(tuple(LearnedTarget(**{**fields, "classes": tuple(fields["classes"])}) for fields in dicts))
