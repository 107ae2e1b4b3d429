"""L1 regularisation of weights, as in MAiVAR (arXiv 2209.04780)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def l1_weights(module: nn.Module) -> list[str]:
    """Names of the regularised parameters: weights of linear layers, without biases, norms, embeddings and the input
    projection of nn.MultiheadAttention."""
    return [f"{name}.weight".removeprefix(".") for name, own in module.named_modules() if isinstance(own, nn.Linear)]


def l1(module: nn.Module) -> Tensor:
    """Sum of |W| over `l1_weights`, a scalar; 0 for a module without any."""
    return l1_norm(layer.weight for layer in module.modules() if isinstance(layer, nn.Linear))


def l1_norm(weights: Iterable[Tensor]) -> Tensor:
    """Sum of |W| over weights, a scalar."""
    sums = [torch.linalg.vector_norm(weight, 1) for weight in weights]
    return torch.stack(sums).sum() if sums else torch.zeros(())
