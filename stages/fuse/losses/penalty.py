"""MAiVAR's penalty on weights (arXiv 2209.04780)."""

import torch
from torch import Tensor, nn


def l1_weights(module: nn.Module) -> list[str]:
    """The parameters that the penalty is on: weights of Linear layers, without biases, norms and embeddings, and
    without what nn.MultiheadAttention makes queries, keys and values with."""
    return [f"{name}.weight".removeprefix(".") for name, each in module.named_modules() if isinstance(each, nn.Linear)]


def l1(module: nn.Module) -> Tensor:
    """The sum of |W| over `l1_weights`. Returns a scalar; 0 for a module without any."""
    sums = [each.weight.abs().sum() for each in module.modules() if isinstance(each, nn.Linear)]
    return torch.stack(sums).sum() if sums else torch.zeros(())
