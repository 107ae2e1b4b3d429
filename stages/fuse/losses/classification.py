"""Classification losses: cross-entropy per target, and their mean."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from avfuse.stages.fuse.data.targets import LearnedTarget, Targets


def multi_target_loss(targets: Targets, logits: Tensor, truth: Sequence[Tensor], smoothing: float = 0.0) -> Tensor:
    """Mean loss over targets, as in AVT for verb and noun; a scalar.

    Args:
        targets: of the data set.
        logits: (B, width).
        truth: one tensor per target, as in `Targets`.
        smoothing: label smoothing.
    """
    losses = [_loss(*target, smoothing) for target in zip(targets, targets.split(logits), truth, strict=True)]
    return sum(losses[1:], start=losses[0]) / len(losses)


def _loss(target: LearnedTarget, logits: Tensor, truth: Tensor, smoothing: float) -> Tensor:
    if target.sigmoid:
        return binary_cross_entropy(logits, truth, smoothing)
    return cross_entropy(logits, truth.int().argmax(dim=1) if target.several else truth, smoothing)


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy against (1 - smoothing) of the target and smoothing / C of every class. logits (B, C), targets
    int64 (B,). Returns a scalar."""
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def binary_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over clips and classes, against 1 - smoothing / 2 where a class is a target and smoothing / 2 where not.
    logits (B, C), targets bool (B, C). Returns a scalar."""
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2)
