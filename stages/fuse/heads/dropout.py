"""Dropout with random numbers of a head's own, whichever heads are trained beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskSource(Protocol):
    """Source of dropout masks."""

    def keep(self, x: Tensor, p: float) -> Tensor:
        """Factors of x, in its shape: 0 with probability p, else 1 / (1 - p)."""
        ...


class GeneratorMasks:
    """Masks drawn from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def keep(self, x: Tensor, p: float) -> Tensor:
        return dropout_mask(x.shape, x.dtype, p, self._generator)


class MaskRecorder:
    """Records which masks a head requests, and drops nothing."""

    def __init__(self) -> None:
        self.requests: list[tuple[torch.Size, torch.dtype, float]] = []

    def keep(self, x: Tensor, p: float) -> Tensor:
        self.requests.append((x.shape, x.dtype, p))
        return torch.ones_like(x)


class PrecomputedMasks:
    """Masks that were drawn before, in the order of a head's requests."""

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
    """The `dropout_mask` of each generator, (generators, *shape)."""
    chance = torch.empty(len(generators), *shape, device=generators[0].device)
    for of_head, generator in zip(chance, generators, strict=True):
        of_head.uniform_(generator=generator)
    return chance.ge_(p).div_(1 - p).to(dtype)


_source: ContextVar[MaskSource | None] = ContextVar("source of dropout", default=None)


@contextmanager
def dropout_source(source: MaskSource) -> Iterator[None]:
    """Dropout in this block and thread takes its masks from `source`."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def mask_from_source(x: Tensor, p: float) -> Tensor | None:
    """A mask for x from the current source; None without one."""
    source = _source.get()
    return None if source is None else source.keep(x, p)


class Dropout(nn.Module):
    """torch's dropout with masks from the current source; without one, from torch's random state."""

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
