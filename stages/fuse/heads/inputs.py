"""The first step of every head: standardise tokens, and stand in for a missing modality."""

import torch
from torch import Tensor, nn

_SMALLEST_DEVIATION = 1e-3


class ModalityInput(nn.Module):
    """Standardises each dimension of each token position with training statistics kept in the checkpoint, and puts a
    learned token where a clip lacks the modality, so that absence is a value of its own and never data.

    tokens (B, T, D) and present bool (B,) -> (B, T, D).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(length, dim))
        self.register_buffer("deviation", torch.ones(length, dim))
        self.absent = nn.Parameter(torch.zeros(dim))

    @torch.no_grad()
    def fit(self, tokens: Tensor, present: Tensor) -> None:
        """Statistics over the clips that have the modality. tokens (n, T, D), present bool (n,)."""
        seen = tokens[present]
        if len(seen) < 2:
            return
        self.mean.copy_(seen.mean(dim=0))
        self.deviation.copy_(seen.std(dim=0).clamp_min(_SMALLEST_DEVIATION))

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        standardised = (tokens - self.mean) / self.deviation
        return torch.where(present[:, None, None], standardised, self.absent)
