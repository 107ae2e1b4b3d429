"""The loss of clips with any number of classes, as AST (arXiv 2104.01778) has it on AudioSet."""

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over clips and classes. logits (B, C), targets bool (B, C). Returns a scalar."""
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
