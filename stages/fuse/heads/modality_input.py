"""Input of a head: standardisation, layout, and a learned token for missing modalities."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avfuse.moved_modules import renamed
from avfuse.stages.fuse.data.shapes import InputLayout, ModalityShape

_SMALLEST_DEVIATION = 1e-3

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Form": "avfuse.stages.fuse.data.shapes.InputLayout"})


class _Moments:
    """Mean and standard deviation (rows, D) of tokens, accumulated over batches in double precision."""

    def __init__(self, shape: ModalityShape) -> None:
        self._shape = shape
        self.clips = 0
        self._sums: list[Tensor] = [torch.zeros(()), torch.zeros(())]

    @torch.no_grad()
    def add(self, tokens: Tensor) -> None:
        """tokens (B, T, D)."""
        values = tokens.to("cpu" if tokens.device.type == "mps" else tokens.device, torch.float64)
        self.clips += len(values)
        for power, powers in enumerate((values, values.square())):
            sums = powers.sum(dim=0)
            if self._shape.grid is not None:
                prefix, cells = sums[: self._shape.prefix], sums[self._shape.prefix :]
                sums = torch.cat([prefix, cells.sum(dim=0, keepdim=True)])
            self._sums[power] = self._sums[power].to(sums.device) + sums

    @property
    def mean(self) -> Tensor:
        return self._sums[0] / self._counts

    @property
    def deviation(self) -> Tensor:
        squares = self._sums[1] - self._counts * self.mean.square()
        return (squares.clamp(min=0) / (self._counts - 1)).sqrt()

    @property
    def _counts(self) -> Tensor:
        """Tokens that each row is the mean of."""
        counts = torch.full((len(self._sums[0]), 1), self.clips, dtype=torch.float64, device=self._sums[0].device)
        if self._shape.grid is not None:
            counts[-1] *= self._shape.length - self._shape.prefix
        return counts


class ModalityInput(nn.Module):
    """Standardises tokens with training statistics that are kept in the checkpoint, and puts a learned token in the
    place of a missing modality.

    Each dimension is standardised per token position; in a grid over all cells, as some cells hardly vary between
    clips. With `unstandardised` nothing is standardised.

    `standardise` and `to_layout` are the part that does not change in training: tokens (B, T, D) -> (B, T, D), (B, D)
    where `pooled` or (B, T D) where `flatten`, 0 for clips without the modality. `forward` puts the learned token in
    their place.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: ModalityShape, layout: InputLayout = "tokens", unstandardised: bool = False) -> None:
        super().__init__()
        self.shape, self.layout, self.unstandardised = shape, layout, unstandardised
        rows = shape.length if shape.grid is None else shape.prefix + 1
        self.register_buffer("mean", torch.zeros(rows, shape.dim))
        self.register_buffer("deviation", torch.ones(rows, shape.dim))
        self.absent = nn.Parameter(torch.zeros(shape.dim))

    @property
    def width(self) -> int:
        """The last dimension in this layout."""
        return self.shape.length * self.shape.dim if self.layout == "flatten" else self.shape.dim

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit the statistics to the clips that have the modality. batches: tokens (B, T, D), present bool (B,)."""
        if self.unstandardised:
            return
        moments = _Moments(self.shape)
        for tokens, present in batches:
            moments.add(tokens[present])
        if moments.clips >= 2:
            self.mean.copy_(moments.mean)
            self.deviation.copy_(moments.deviation.clamp(min=_SMALLEST_DEVIATION))

    @torch.no_grad()
    def standardise(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (B, ..., T, D) of any precision -> float32, 0 for clips without the modality. present: bool (B,)."""
        standardised = (tokens.float() - self._per_token(self.mean)) / self._per_token(self.deviation)
        standardised[~present] = 0
        return standardised

    def prepare(self, tokens: Tensor, present: Tensor) -> Tensor:
        """`standardise`, then `to_layout`."""
        return self.to_layout(self.standardise(tokens, present))

    def unstandardise(self, standardised: Tensor) -> Tensor:
        """The reverse of `standardise`. (B, T, D) -> (B, T, D)."""
        return standardised * self._per_token(self.deviation) + self._per_token(self.mean)

    def to_layout(self, standardised: Tensor) -> Tensor:
        """Standardised tokens (..., T, D) in the head's layout."""
        if self.layout == "pooled":
            return self.shape.pool(standardised)
        return standardised.flatten(-2) if self.layout == "flatten" else standardised

    def forward(self, prepared: Tensor, present: Tensor | None) -> Tensor:
        """Prepared tokens, the learned one where a clip lacks the modality. present: bool (B,), None: all have it."""
        if present is None:
            return prepared
        absent = self.absent.repeat(self.shape.length) if self.layout == "flatten" else self.absent
        return torch.where(present.reshape(-1, *[1] * (prepared.ndim - 1)), prepared, absent)

    def _per_token(self, rows: Tensor) -> Tensor:
        """One row per token."""
        if self.shape.grid is None:
            return rows
        return torch.cat([rows[:-1], rows[-1:].expand(self.shape.length - self.shape.prefix, -1)])
