"""MAiVAR's penalty on weights (arXiv 2209.04780)."""

import torch
from torch import Tensor, nn


def l1(module: nn.Module) -> Tensor:
    """The sum of |W| over the weights of its Linear layers, without biases, norms and embeddings, and without
    what nn.MultiheadAttention makes queries, keys and values with. Returns a scalar; 0 for a module without any."""
    sums = [layer.weight.abs().sum() for layer in module.modules() if isinstance(layer, nn.Linear)]
    return torch.stack(sums).sum() if sums else torch.zeros(())
