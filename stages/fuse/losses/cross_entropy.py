"""The classification loss of every paper."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy. logits (B, C), targets int64 (B,). Returns a scalar."""
    return F.cross_entropy(logits, targets)
