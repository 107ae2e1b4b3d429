"""Parts that several heads are made of."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.fuse.draws import Dropout

HIDDEN = (512, 256)
DROPOUT = 0.5


def mlp(inputs: int, classes: int, hidden: tuple[int, ...] = HIDDEN, dropout: float = DROPOUT) -> nn.Sequential:
    """Linear-ReLU-Dropout per hidden size, then Linear: MAiVAR's classifier. (B, inputs) -> (B, classes)."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), nn.ReLU(), Dropout(dropout)]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class TokenProjection(nn.Module):
    """Each modality's tokens to one width, plus a learned embedding per position, which says which frame or which audio
    image, and so which modality, a token is of. {name: (B, T, D)} -> {name: (B, T, d)}."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], dim: int) -> None:
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, (_, width) in shapes.items()})
        self.position = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(length, dim) * 0.02) for name, (length, _) in shapes.items()}
        )

    def forward(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.project[name](x) + self.position[name] for name, x in tokens.items()}


class FeedForward(nn.Sequential):
    """LayerNorm, then Linear 4d, GELU, Linear d: the second half of a pre-LN transformer block, without its skip."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), Dropout(dropout)
        )


class Attention(nn.Module):
    """Multi-head attention of queries (B, N, d) over context (B, M, d), dropout on its output. -> (B, N, d)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.dropout = Dropout(dropout)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        mixed, _ = self.attend(queries, context, context, need_weights=False)
        return self.dropout(mixed)
