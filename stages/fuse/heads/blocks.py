"""Building blocks of heads."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.config import Settings
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.heads.dropout import Dropout


class Linear(nn.Linear):
    """torch's linear layer on (B, inputs), with a batched form whose gradients are laid out as the weights: under vmap
    PyTorch makes those of many layers transposed, and copies them. Under autocast, which has no rule for it, torch's
    own is used."""

    def forward(self, x: Tensor) -> Tensor:
        plain = x.ndim == 2 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not plain or not torch.is_grad_enabled():
            return super().forward(x)
        product: Tensor = _PlainLinear.apply(x, self.weight, self.bias)
        return product


class _PlainLinear(torch.autograd.Function):
    """One layer: x (B, i), weight (o, i), bias (o,) -> (B, o)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.addmm(bias, x, weight.T)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight if ctx.needs_input_grad[0] else None, gradient.T @ x, gradient.sum(dim=0)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        stacked = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip((x, weight, bias), in_dims, strict=True)
        ]
        return _BatchedLinear.apply(*stacked), 0


class _BatchedLinear(torch.autograd.Function):
    """N layers: x (N, B, i), weight (N, o, i), bias (N, o) -> (N, B, o)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight if ctx.needs_input_grad[0] else None, gradient.mT @ x, gradient.sum(dim=1)


class MlpOptions(Settings):
    """Sizes of a classifying MLP. The papers name none."""

    hidden: Annotated[str, Field(pattern=r"^[1-9]\d*(x[1-9]\d*)*$", examples=["512x256"])] = "512x256"
    """Widths of hidden layers, joined by x."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


def mlp(inputs: int, outputs: int, options: MlpOptions) -> nn.Sequential:
    """Linear-ReLU-Dropout per hidden size, then Linear: MAiVAR's classifier. (B, inputs) -> (B, outputs)."""
    layers: list[nn.Module] = []
    for size in map(int, options.hidden.split("x")):
        layers += [Linear(inputs, size), nn.ReLU(), Dropout(options.dropout)]
        inputs = size
    return nn.Sequential(*layers, Linear(inputs, outputs))


class TransformerOptions(Settings):
    """Sizes of attention layers, small enough for a CPU. The papers use 768 dimensions and 12 heads."""

    dim: Annotated[int, Field(ge=1)] = 128
    heads: Annotated[int, Field(ge=1)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _divides(self) -> "TransformerOptions":
        if self.dim % self.heads:
            raise UsageError(f"heads={self.heads} does not divide dim={self.dim}: attention needs equal parts")
        return self


class TokenProjection(nn.Module):
    """Projects each modality's tokens to one width and adds a learned embedding per position, which tells frames, audio
    images and modalities apart. {name: (B, T, D)} -> {name: (B, T, d)}."""

    def __init__(self, shapes: Mapping[str, ModalityShape], dim: int) -> None:
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(shape.dim, dim) for name, shape in shapes.items()})
        self.position = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(shape.length, dim) * 0.02) for name, shape in shapes.items()}
        )

    def forward(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.project[name](x) + self.position[name] for name, x in tokens.items()}


class FeedForward(nn.Sequential):
    """LayerNorm, Linear 4d, GELU, Linear d: the second half of a pre-LN transformer block, without its skip."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), Dropout(dropout)
        )


class Attention(nn.Module):
    """Multi-head attention of queries (B, N, d) over context (B, M, d), with dropout on its output -> (B, N, d)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.dropout = Dropout(dropout)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        mixed, _ = self.attend(queries, context, context, need_weights=False)
        return self.dropout(mixed)
