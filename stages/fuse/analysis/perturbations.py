"""Test-time perturbations of one modality: dropout, noise, a shift in time, a swap between clips."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.stages.fuse.data.modality import Modality, StreamedModality
from avfuse.stages.fuse.data.token_layout import time_axis
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.training.inputs import Views
from avfuse.stages.fuse.training.job import TrainingJob

SNR_DB = (10.0, 0.0, -10.0)
"""Signal-to-noise ratios, 10 log10 of the ratio of variances."""

SHIFTS = (0.25, 0.5)
"""Shares of the length of the time axis."""

_CLIPS = 1024


@dataclass(frozen=True)
class ModalityTokens:
    """The tokens of one modality of the test clips."""

    name: str
    modality: Modality | StreamedModality
    modality_input: ModalityInput
    views: Views
    cached: Tensor
    """(n, V, T, D), not standardised."""
    present: Tensor
    """Bool (n,)."""
    scale: ModalityInput
    """Scales noise of variance 1 to the variance of standardised tokens in each dimension."""

    @classmethod
    def of(cls, job: TrainingJob, name: str, modality_input: ModalityInput) -> Self:
        data, modality = job.data, job.data.modalities[name]
        views = Views.of(modality, job.recipe)
        present = modality.present[data.test]
        scale = ModalityInput(modality_input.shape).to(present.device)
        if modality_input.unstandardised:
            fitted = torch.cat([data.train, data.validation])
            scale.fit((modality.read(part, data.clips)[:, 0], modality.present[part]) for part in fitted.split(_CLIPS))
            scale.mean.zero_()
        if job.recipe.without == name:
            present = torch.zeros_like(present)
        cached = modality.read(data.test, data.clips, all_views=views.count > 1)
        return cls(name, modality, modality_input, views, cached, present, scale)

    def standardised(self, clips: Tensor) -> Tensor:
        """(B,) -> (B, V, T, D)."""
        return self.modality_input.standardise(self.cached[clips], self.present[clips])

    def stored(self, standardised: Tensor) -> Tensor:
        """(B, V, T, D) as `HeadInputs` stores it."""
        return standardised if self.views.count > 1 else self.modality_input.to_layout(standardised[:, 0])

    @property
    def bytes_per_clip(self) -> int:
        return 4 * self.cached[0].numel()


@dataclass(frozen=True)
class Perturbation:
    """A change to one modality of the test clips."""

    modality: str
    name: str
    strength: float
    """NaN where there is none."""
    measured: NDArray[np.bool_]
    """(n,), the clips that accuracy is measured on."""
    affected: NDArray[np.bool_]
    """(n,), the clips that it changes."""
    apply: Callable[[Tensor], Tensor] | None
    """Clips (B,) -> standardised tokens (B, V, T, D), called in the clips' order; None drops the modality."""


def perturbations(modality: ModalityTokens, labels: NDArray[np.int64], seed: int) -> Iterator[Perturbation]:
    """All perturbations of one modality. labels: the test clips' classes, int64 (n,)."""
    has = modality.present.cpu().numpy()
    everyone = np.ones_like(has)
    yield Perturbation(modality.name, "dropped", math.nan, everyone, has, None)
    for ratio in SNR_DB:
        yield Perturbation(modality.name, "noise", ratio, everyone, has, _noise(modality, ratio, seed))
    for share in SHIFTS:
        if (apply := _shift(modality, share)) is not None:
            yield Perturbation(modality.name, "shift", share, everyone, has, apply)
    for name, partner in (
        ("same class", _partners_of_same_class(labels, has, np.random.default_rng(seed))),
        ("other class", _partners_of_other_class(labels, has, np.random.default_rng(seed))),
    ):
        yield Perturbation(modality.name, name, math.nan, ~has | (partner >= 0), partner >= 0, _swap(modality, partner))


def _noise(modality: ModalityTokens, snr_db: float, seed: int) -> Callable[[Tensor], Tensor]:
    """Noise, scaled to a ratio; all ratios share the same noise."""
    draws = torch.Generator().manual_seed(seed)

    def apply(clips: Tensor) -> Tensor:
        tokens = modality.standardised(clips)
        noise = torch.randn(tokens.shape, generator=draws).to(tokens.device)
        return tokens + 10 ** (-snr_db / 20) * modality.scale.unstandardise(noise)

    return apply


def _shift(modality: ModalityTokens, share: float) -> Callable[[Tensor], Tensor] | None:
    """None where there is no time axis."""
    views, tokens = np.arange(modality.cached.shape[1]), np.arange(modality.cached.shape[2])
    windows = list(modality.views.test_views)
    if len(windows) > 1:
        views[windows] = _rolled(views[windows], (len(windows),), 0, share)
    else:
        tokens = _tokens_in_time(modality.name, modality.modality, share)
    if (np.diff(views) == 1).all() and (np.diff(tokens) == 1).all():
        return None
    view_order, token_order = (torch.from_numpy(order).to(modality.cached.device) for order in (views, tokens))
    return lambda clips: modality.standardised(clips)[:, view_order][:, :, token_order]


def _tokens_in_time(name: str, modality: Modality | StreamedModality, share: float) -> NDArray[np.int64]:
    """The order of tokens after a shift, int64 (T,)."""
    order = np.arange(modality.shape.length)
    if modality.layout is None:
        return _rolled(order, (len(order),), 0, share) if name == "video" else order
    start = 0
    for spec, length in zip(modality.layout.alternatives[0], modality.layout.tokens_per_feature, strict=True):
        if (in_time := time_axis(spec)) is not None:
            cells, axis = in_time
            own = slice(start + length - math.prod(cells), start + length)
            order[own] = _rolled(order[own], cells, axis, share)
        start += length
    return order


def _rolled(order: NDArray[np.int64], cells: tuple[int, ...], axis: int, share: float) -> NDArray[np.int64]:
    steps = max(1, math.floor(share * cells[axis] + 0.5))
    return np.roll(order.reshape(cells), steps, axis).ravel()


def _swap(modality: ModalityTokens, partner: NDArray[np.int64]) -> Callable[[Tensor], Tensor]:
    """partner: int64 (n,), -1 for an unchanged clip."""
    source = torch.from_numpy(np.where(partner >= 0, partner, np.arange(len(partner)))).to(modality.cached.device)
    return lambda clips: modality.standardised(source[clips])


def _partners_of_same_class(
    labels: NDArray[np.int64], has: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Another clip of the same class for each, along a random cycle; -1 for one that is alone or lacks the modality."""
    partner = np.full(len(labels), -1)
    for label in np.unique(labels[has]):
        members = generator.permutation(np.flatnonzero(has & (labels == label)))
        if len(members) > 1:
            partner[members] = np.roll(members, 1)
    return partner


def _partners_of_other_class(
    labels: NDArray[np.int64], has: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Partner of another class per clip: in a cycle sorted by class, with classes and clips in random order, the clip
    as many places ahead as the largest class has clips. -1 if that has the same class, which happens where one class
    has more than half of the clips, and for clips that lack the modality."""
    partner = np.full(len(labels), -1)
    members = generator.permutation(np.flatnonzero(has))
    if len(members):
        rank = generator.permutation(labels.max() + 1)
        members = members[np.argsort(rank[labels[members]], kind="stable")]
        others = np.roll(members, np.bincount(labels[members]).max())
        partner[members] = np.where(labels[others] != labels[members], others, -1)
    return partner
