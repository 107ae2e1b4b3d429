"""The classification loss of every paper."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy against (1 - smoothing) of the target and smoothing / C of every class. logits (B, C), targets
    int64 (B,). Returns a scalar."""
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)
