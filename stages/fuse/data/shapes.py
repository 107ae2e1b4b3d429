"""Shape of a modality: tokens per clip, their dimension and grid; and the layouts in which heads take them."""

from typing import Literal, NamedTuple

from torch import Tensor

InputLayout = Literal["tokens", "pooled", "flatten"]
"""Layout of a modality in a head: token by token, one vector (see `ModalityShape.pool`), or all tokens side by side."""


class ModalityShape(NamedTuple):
    """Shape of the tokens of a clip."""

    length: int
    """Tokens per clip."""
    dim: int
    """Dimension of a token."""
    prefix: int = 0
    """Tokens before the grid: CLS, distillation."""
    grid: tuple[int, ...] | None = None
    """Cells along each axis, where tokens form a grid."""
    raw: bool = False
    """Whether it is a backbone's input, the filter bank (frames, bands), not an output."""

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector per clip, E_CLS in AVT: the mean of the tokens before the grid, (CLS + distillation) / 2 for AST,
        or of all tokens without any. (..., T, D) -> (..., D)."""
        return (tokens[..., : self.prefix, :] if self.prefix else tokens).mean(dim=-2)
