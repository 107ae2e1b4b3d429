"""The first step of every head: standardise tokens, and stand in for a missing modality."""

from typing import Literal

import torch
from torch import Tensor, nn

_SMALLEST_DEVIATION = 1e-3

Form = Literal["tokens", "mean", "flatten"]
"""How a head takes a modality: token by token, their mean, or all side by side."""


class ModalityInput(nn.Module):
    """Standardises each dimension of each token position with training statistics kept in the checkpoint, and puts a
    learned token where a clip lacks the modality, so that absence is a value of its own and never data.

    `prepare` does once what does not change while a head is trained: tokens (B, T, D) -> (B, T, D), (B, D) as `mean` or
    (B, T D) as `flatten`, zero for clips without the modality. `forward` puts the learned token in their place.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, length: int, dim: int, form: Form = "tokens") -> None:
        super().__init__()
        self.form = form
        self.register_buffer("mean", torch.zeros(length, dim))
        self.register_buffer("deviation", torch.ones(length, dim))
        self.absent = nn.Parameter(torch.zeros(dim))

    @property
    def width(self) -> int:
        """The last dimension of what is given."""
        length, dim = self.mean.shape
        return length * dim if self.form == "flatten" else dim

    @torch.no_grad()
    def fit(self, tokens: Tensor, present: Tensor) -> None:
        """Statistics over the clips that have the modality. tokens (n, T, D), present bool (n,)."""
        seen = tokens[present]
        if len(seen) < 2:
            return
        self.mean.copy_(seen.mean(dim=0))
        self.deviation.copy_(seen.std(dim=0).clamp_min(_SMALLEST_DEVIATION))

    @torch.no_grad()
    def prepare(self, tokens: Tensor, present: Tensor) -> Tensor:
        standardised = (tokens - self.mean) / self.deviation
        standardised[~present] = 0
        if self.form == "mean":
            return standardised.mean(dim=1)
        return standardised.flatten(1) if self.form == "flatten" else standardised

    def forward(self, prepared: Tensor, present: Tensor | None) -> Tensor:
        """present: bool (B,), None where every clip has the modality."""
        if present is None:
            return prepared
        absent = self.absent.repeat(len(self.mean)) if self.form == "flatten" else self.absent
        return torch.where(present.reshape(-1, *[1] * (prepared.ndim - 1)), prepared, absent)
