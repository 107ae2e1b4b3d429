"""The shape of a modality: tokens per clip, their dimension and grid, and the layouts in which heads take them."""

from typing import Literal, NamedTuple

from torch import Tensor

InputLayout = Literal["tokens", "pooled", "flatten"]
"""How a head takes a modality: token by token, as one vector (see `ModalityShape.pool`), or all side by side."""


class ModalityShape(NamedTuple):
    """Tokens per clip and their dimension. Of a grid of tokens: how many stand before it (CLS and its like), and its
    cells. raw: not a backbone's output but its input, the filter bank (frames, bands)."""

    length: int
    dim: int
    prefix: int = 0
    grid: tuple[int, ...] | None = None
    raw: bool = False

    def pool(self, tokens: Tensor) -> Tensor:
        """A clip in one vector, E_CLS in AVT: the mean of the tokens before the grid, (CLS + distillation) / 2 for AST,
        or of all where there are none. (..., T, D) -> (..., D)."""
        return (tokens[..., : self.prefix, :] if self.prefix else tokens).mean(dim=-2)
