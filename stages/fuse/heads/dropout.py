"""Random numbers of a head's own: what one head draws does not depend on which others are trained beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskSource(Protocol):
    """Where dropout gets its masks from."""

    def keep(self, x: Tensor, p: float) -> Tensor:
        """What to multiply x with: 0 with probability p, 1 / (1 - p) otherwise, in the shape of x."""
        ...


class GeneratorMasks:
    """Masks from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def keep(self, x: Tensor, p: float) -> Tensor:
        return dropout_mask(x.shape, x.dtype, p, self._generator)


class MaskRecorder:
    """Notes which masks a head asks for, and drops nothing."""

    def __init__(self) -> None:
        self.requests: list[tuple[torch.Size, torch.dtype, float]] = []

    def keep(self, x: Tensor, p: float) -> Tensor:
        self.requests.append((x.shape, x.dtype, p))
        return torch.ones_like(x)


class PrecomputedMasks:
    """Masks that were drawn before, in the order in which a head asks for them."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        self._masks = iter(masks)

    def keep(self, x: Tensor, p: float) -> Tensor:
        return next(self._masks)


def dropout_mask(shape: torch.Size, dtype: torch.dtype, p: float, generator: torch.Generator) -> Tensor:
    """A dropout mask on the generator's device."""
    chance = torch.rand(shape, generator=generator, device=generator.device)
    return chance.ge_(p).div_(1 - p).to(dtype)


def stacked_dropout_masks(
    shape: torch.Size, dtype: torch.dtype, p: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """The masks that `dropout_mask` gives of each generator, (generators, *shape)."""
    chance = torch.empty(len(generators), *shape, device=generators[0].device)
    for own, generator in zip(chance, generators, strict=True):
        own.uniform_(generator=generator)
    return chance.ge_(p).div_(1 - p).to(dtype)


_source: ContextVar[MaskSource | None] = ContextVar("source of dropout", default=None)


@contextmanager
def dropout_source(source: MaskSource) -> Iterator[None]:
    """Dropout inside, in this thread, asks this source."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def mask_from_source(x: Tensor, p: float) -> Tensor | None:
    """What the source in use gives for x; None where none is."""
    source = _source.get()
    return None if source is None else source.keep(x, p)


class Dropout(nn.Module):
    """As torch's, with masks from the source in use; torch's own random state where there is none."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        mask = mask_from_source(x, self.p)
        return F.dropout(x, self.p) if mask is None else x * mask

    def extra_repr(self) -> str:
        return f"p={self.p}"
