"""MAiVAR's penalty on weights (arXiv 2209.04780)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def l1_weights(module: nn.Module) -> list[str]:
    """The parameters that the penalty is on: weights of Linear layers, without biases, norms and embeddings, and
    without what nn.MultiheadAttention makes queries, keys and values with."""
    return [f"{name}.weight".removeprefix(".") for name, each in module.named_modules() if isinstance(each, nn.Linear)]


def l1(module: nn.Module) -> Tensor:
    """The sum of |W| over `l1_weights`. Returns a scalar; 0 for a module without any."""
    return l1_norm(each.weight for each in module.modules() if isinstance(each, nn.Linear))


def l1_norm(weights: Iterable[Tensor]) -> Tensor:
    """The sum of |W| over these."""
    sums = [torch.linalg.vector_norm(each, 1) for each in weights]
    return torch.stack(sums).sum() if sums else torch.zeros(())
