"""The loss of all targets of a clip."""

from collections.abc import Sequence

from torch import Tensor

from avfuse.stages.fuse.losses.binary_cross_entropy import binary_cross_entropy
from avfuse.stages.fuse.losses.cross_entropy import cross_entropy
from avfuse.stages.fuse.targets import LearnedTarget, Targets


def loss_of_targets(targets: Targets, logits: Tensor, truth: Sequence[Tensor], smoothing: float = 0.0) -> Tensor:
    """Mean over targets, as AVT has it for verb and noun. logits (B, width), truth one tensor a target; smoothing of
    labels. A scalar."""
    losses = [_loss(*each, smoothing) for each in zip(targets, targets.split(logits), truth, strict=True)]
    return sum(losses[1:], start=losses[0]) / len(losses)


def _loss(target: LearnedTarget, logits: Tensor, truth: Tensor, smoothing: float) -> Tensor:
    if target.sigmoid:
        return binary_cross_entropy(logits, truth, smoothing)
    return cross_entropy(logits, truth.int().argmax(dim=1) if target.several else truth, smoothing)
