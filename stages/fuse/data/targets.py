"""Targets that heads learn, one or several per clip, with their logits side by side."""

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
    """A target of a data set, and how its logits are read."""

    sigmoid: bool = False
    """Probabilities are the sigmoid of each logit, which needs a target of several classes; else their softmax."""

    @property
    def measure(self) -> str:
        """The measure of accuracy: `top1`, or `hit1` for a target of several classes, where the class of the largest
        logit has to be one of the clip's."""
        return "hit1" if self.several else "top1"


@dataclass(frozen=True)
class Targets:
    """The targets of a data set in the order of their logits (B, width).

    The truth of n clips is one tensor per target: class numbers int64 (n,), -1 where unknown, or bool (n, classes) for
    a target of several classes. Raises UsageError where a target has the name of the joint measure.
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
        """Logits per clip: the classes of all targets together."""
        return sum(len(target.classes) for target in self.items)

    def split(self, logits: Logits) -> list[Logits]:
        """Logits of each target. (B, width) -> (B, classes) each."""
        sizes = [len(target.classes) for target in self.items]
        return [logits[:, end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]

    @property
    def joint(self) -> str:
        """Name of all targets together: `action` for verb and noun, as in EPIC-KITCHENS, else `all`."""
        return "action" if {target.name for target in self.items} == {"verb", "noun"} else "all"

    @property
    def measure(self) -> str:
        """The measure that heads are compared by: the share of clips with every target right."""
        return f"{self.joint}_top1" if len(self.items) > 1 else self.items[0].measure

    @property
    def has_joint_top5(self) -> bool:
        """Whether top-5 of class combinations is defined: one class per target, and more than five combinations."""
        combinations = math.prod(len(target.classes) for target in self.items)
        return len(self.items) > 1 and not any(target.several for target in self.items) and combinations > 5

    @property
    def selection(self) -> str:
        """The validation measure that chooses the epoch: `measure`, or mean average precision for a single target with
        sigmoid, whose largest logit says little."""
        return "map" if len(self.items) == 1 and self.items[0].sigmoid else self.measure

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [asdict(target) for target in self.items]

    @classmethod
    def from_dicts(cls, dicts: Sequence[dict[str, Any]]) -> "Targets":
        """The reverse of `to_dicts`."""
        return cls(tuple(LearnedTarget(**{**fields, "classes": tuple(fields["classes"])}) for fields in dicts))
