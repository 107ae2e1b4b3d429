"""The door of every head: standardise tokens, and stand in for a missing modality."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from avfuse.moved_modules import renamed
from avfuse.stages.fuse.data.shapes import InputLayout, ModalityShape

_SMALLEST_DEVIATION = 1e-3

__getattr__ = renamed(__name__, {"Form": "avfuse.stages.fuse.data.shapes.InputLayout"})


class _Moments:
    """Mean and deviation (rows, D) of tokens that come in batches, summed in double precision."""

    def __init__(self, shape: ModalityShape) -> None:
        self._shape = shape
        self.clips = 0
        self._sums: list[Tensor] = [torch.zeros(()), torch.zeros(())]

    @torch.no_grad()
    def add(self, tokens: Tensor) -> None:
        """tokens (B, T, D)."""
        values = tokens.to("cpu" if tokens.device.type == "mps" else tokens.device, torch.float64)
        self.clips += len(values)
        for power, values_or_squares in enumerate((values, values.square())):
            of_clips = values_or_squares.sum(dim=0)
            if self._shape.grid is not None:
                own, cells = of_clips[: self._shape.prefix], of_clips[self._shape.prefix :]
                of_clips = torch.cat([own, cells.sum(dim=0, keepdim=True)])
            self._sums[power] = self._sums[power].to(of_clips.device) + of_clips

    @property
    def mean(self) -> Tensor:
        return self._sums[0] / self._counts

    @property
    def deviation(self) -> Tensor:
        squares = self._sums[1] - self._counts * self.mean.square()
        return (squares.clamp(min=0) / (self._counts - 1)).sqrt()

    @property
    def _counts(self) -> Tensor:
        """How many tokens each row is of."""
        counts = torch.full((len(self._sums[0]), 1), self.clips, dtype=torch.float64, device=self._sums[0].device)
        if self._shape.grid is not None:
            counts[-1] *= self._shape.length - self._shape.prefix
        return counts


class ModalityInput(nn.Module):
    """Standardises tokens with training statistics kept in the checkpoint, and puts a learned token where a clip lacks
    the modality, so that absence is a value of its own and never data.

    Each dimension is standardised for each token position, or where tokens form a grid for all cells together, of which
    some are alike in nearly every clip. With `unstandardised` nothing is standardised.

    `standardise` and `to_layout` do once what does not change while a head is trained: tokens (B, T, D) -> (B, T, D),
    (B, D) where `pooled` or (B, T D) where `flatten`, zero for clips without the modality. `forward` puts the learned
    token in their place.
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
        """The last dimension of what is given."""
        return self.shape.length * self.shape.dim if self.layout == "flatten" else self.shape.dim

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Statistics over the clips that have the modality. batches: tokens (B, T, D), present bool (B,)."""
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
        """(B, ..., T, D) of any precision -> float32, 0 for clips without the modality."""
        standardised = (tokens.float() - self._of_tokens(self.mean)) / self._of_tokens(self.deviation)
        standardised[~present] = 0
        return standardised

    def prepare(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Standardised, in the head's layout."""
        return self.to_layout(self.standardise(tokens, present))

    def unstandardise(self, standardised: Tensor) -> Tensor:
        """The tokens as they are cached. (B, T, D) -> (B, T, D)."""
        return standardised * self._of_tokens(self.deviation) + self._of_tokens(self.mean)

    def to_layout(self, standardised: Tensor) -> Tensor:
        """In the head's layout."""
        if self.layout == "pooled":
            return self.shape.pool(standardised)
        return standardised.flatten(-2) if self.layout == "flatten" else standardised

    def forward(self, prepared: Tensor, present: Tensor | None) -> Tensor:
        """present: bool (B,), None where every clip has the modality."""
        if present is None:
            return prepared
        absent = self.absent.repeat(self.shape.length) if self.layout == "flatten" else self.absent
        return torch.where(present.reshape(-1, *[1] * (prepared.ndim - 1)), prepared, absent)

    def _of_tokens(self, rows: Tensor) -> Tensor:
        """A row for each token."""
        if self.shape.grid is None:
            return rows
        return torch.cat([rows[:-1], rows[-1:].expand(self.shape.length - self.shape.prefix, -1)])
