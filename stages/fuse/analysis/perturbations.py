"""What can happen to one modality of test clips: noise, a shift in time, another clip's in its place."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.cache import ClipQuery
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality, StreamedModality
from avfuse.stages.fuse.data.token_layout import time_axis
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.training.inputs import Views
from avfuse.stages.fuse.training.job import TrainingJob

SNR_DB = (10.0, 0.0, -10.0)
"""Signal-to-noise ratios, 10 log10 of the ratio of variances."""

SHIFTS = (0.25, 0.5)
"""Of the length of the time axis."""

_CLIPS = 1024


@dataclass(frozen=True)
class ModalityTokens:
    """A modality of the test clips: rows (n, V, T, D) as they are cached, present bool (n,). scale: restores what has
    variance 1 in each dimension to the variance of standardised tokens."""

    name: str
    modality: Modality | StreamedModality
    door: ModalityInput
    views: Views
    rows: Tensor
    present: Tensor
    scale: ModalityInput

    @classmethod
    def of(cls, job: TrainingJob, name: str, door: ModalityInput) -> "ModalityTokens":
        data, modality = job.data, job.data.modalities[name]
        views = Views.of(modality, job.recipe)
        present = modality.present[data.test]
        scale = ModalityInput(door.shape).to(present.device)
        if door.unstandardised:
            fitted = torch.cat([data.train, data.validation])
            scale.fit(
                (_rows(data, modality, part, Views())[:, 0], modality.present[part]) for part in fitted.split(_CLIPS)
            )
            scale.mean.zero_()
        if job.recipe.without == name:
            present = torch.zeros_like(present)
        return cls(name, modality, door, views, _rows(data, modality, data.test, views), present, scale)

    def standardised(self, clips: Tensor) -> Tensor:
        """(B,) -> (B, V, T, D)."""
        return self.door.standardise(self.rows[clips], self.present[clips])

    def stored(self, standardised: Tensor) -> Tensor:
        """As `HeadInputs` has it."""
        return standardised if self.views.count > 1 else self.door.to_layout(standardised[:, 0])

    @property
    def bytes_per_clip(self) -> int:
        return 4 * self.rows[0].numel()


@dataclass(frozen=True)
class Perturbation:
    """Test clips (B,) -> their standardised tokens (B, V, T, D), called in the clips' order; None: taken away.
    kept: bool (n,), the clips that it is measured on."""

    modality: str
    name: str
    strength: float
    kept: NDArray[np.bool_]
    changed: NDArray[np.bool_]
    alter: Callable[[Tensor], Tensor] | None


def perturbations(seen: ModalityTokens, labels: NDArray[np.int64], seed: int) -> Iterator[Perturbation]:
    """All that `robustness` says, of one modality. labels: the test clips' classes, int64 (n,)."""
    has = seen.present.cpu().numpy()
    everyone = np.ones_like(has)
    yield Perturbation(seen.name, "dropped", math.nan, everyone, has, None)
    for ratio in SNR_DB:
        yield Perturbation(seen.name, "noise", ratio, everyone, has, _noise(seen, ratio, seed))
    for share in SHIFTS:
        if (alter := _shift(seen, share)) is not None:
            yield Perturbation(seen.name, "shift", share, everyone, has, alter)
    for name, partner in (
        ("same class", _partners_of_same_class(labels, has, np.random.default_rng(seed))),
        ("other class", _partners_of_other_class(labels, has, np.random.default_rng(seed))),
    ):
        yield Perturbation(seen.name, name, math.nan, ~has | (partner >= 0), partner >= 0, _swap(seen, partner))


def _noise(seen: ModalityTokens, snr_db: float, seed: int) -> Callable[[Tensor], Tensor]:
    """Every ratio adds the same noise, scaled."""
    draws = torch.Generator().manual_seed(seed)

    def alter(clips: Tensor) -> Tensor:
        tokens = seen.standardised(clips)
        noise = torch.randn(tokens.shape, generator=draws).to(tokens.device)
        return tokens + 10 ** (-snr_db / 20) * seen.scale.unstandardise(noise)

    return alter


def _shift(seen: ModalityTokens, share: float) -> Callable[[Tensor], Tensor] | None:
    """None where there is no time axis."""
    views, tokens = np.arange(seen.rows.shape[1]), np.arange(seen.rows.shape[2])
    windows = list(seen.views.test_views)
    if len(windows) > 1:
        views[windows] = _rolled(views[windows], (len(windows),), 0, share)
    else:
        tokens = _tokens_in_time(seen.name, seen.modality, share)
    if (np.diff(views) == 1).all() and (np.diff(tokens) == 1).all():
        return None
    view_order, token_order = (torch.from_numpy(each).to(seen.rows.device) for each in (views, tokens))
    return lambda clips: seen.standardised(clips)[:, view_order][:, :, token_order]


def _tokens_in_time(name: str, modality: Modality | StreamedModality, share: float) -> NDArray[np.int64]:
    """Which token stands where after a shift. int64 (T,)."""
    order = np.arange(modality.shape.length)
    if modality.layout is None:
        return _rolled(order, (len(order),), 0, share) if name == "video" else order
    start = 0
    for spec, length in zip(modality.layout.alternatives[0], modality.layout.tokens_per_feature, strict=True):
        if (found := time_axis(spec)) is not None:
            cells, axis = found
            own = slice(start + length - math.prod(cells), start + length)
            order[own] = _rolled(order[own], cells, axis, share)
        start += length
    return order


def _rolled(order: NDArray[np.int64], cells: tuple[int, ...], axis: int, share: float) -> NDArray[np.int64]:
    steps = max(1, math.floor(share * cells[axis] + 0.5))
    return np.roll(order.reshape(cells), steps, axis).ravel()


def _swap(seen: ModalityTokens, partner: NDArray[np.int64]) -> Callable[[Tensor], Tensor]:
    """partner: int64 (n,), -1 for a clip that stays as it is."""
    source = torch.from_numpy(np.where(partner >= 0, partner, np.arange(len(partner)))).to(seen.rows.device)
    return lambda clips: seen.standardised(source[clips])


def _partners_of_same_class(
    labels: NDArray[np.int64], has: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.int64]:
    """For each clip another of its class, round a random circle; -1 for one that is alone or lacks the modality."""
    partner = np.full(len(labels), -1)
    for label in np.unique(labels[has]):
        members = generator.permutation(np.flatnonzero(has & (labels == label)))
        if len(members) > 1:
            partner[members] = np.roll(members, 1)
    return partner


def _partners_of_other_class(
    labels: NDArray[np.int64], has: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.int64]:
    """For each clip one of another class: in a circle sorted by class, classes and clips in random order, the one that
    is as far away as the largest class is long. -1 where that is of the same class, as happens where one class has more
    than half of the clips, and for clips that lack the modality."""
    partner = np.full(len(labels), -1)
    members = generator.permutation(np.flatnonzero(has))
    if len(members):
        rank = generator.permutation(labels.max() + 1)
        members = members[np.argsort(rank[labels[members]], kind="stable")]
        others = np.roll(members, np.bincount(labels[members]).max())
        partner[members] = np.where(labels[others] != labels[members], others, -1)
    return partner


def _rows(data: FusionData, modality: Modality | StreamedModality, clips: Tensor, views: Views) -> Tensor:
    """Tokens of the clips at indices (n,), as they are cached: float32 (n, V, T, D), all views or the first."""
    if isinstance(modality, Modality):
        return modality.tokens[clips][:, None] if views.count == 1 or modality.views is None else modality.views[clips]
    asked = ClipQuery([data.clips[index] for index in clips.tolist()])
    stacked = modality.layout.stack_views(
        {key: torch.from_numpy(store.load(asked).data.astype(np.float32)) for key, store in modality.stores.items()}
    ).to(clips.device)
    return stacked[:, :1] if views.count == 1 else stacked
