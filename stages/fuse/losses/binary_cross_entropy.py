"""The loss of clips with any number of classes, as AST (arXiv 2104.01778) has it on AudioSet."""

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over clips and classes, against 1 - smoothing / 2 where a class is a target and smoothing / 2 where not.
    logits (B, C), targets bool (B, C). Returns a scalar."""
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2)
