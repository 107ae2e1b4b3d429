"""One modality of a data set's clips: features side by side, with their cached views, in memory or left on disk."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.cache import FeatureStore
from avfuse.features.errors import UsageError
from avfuse.features.spec import VIEWS, FeatureSpec, View
from avfuse.stages.fuse.data.shapes import ModalityShape

_WINDOW = re.compile(r":(\d+)of(\d+)")

Alternative = tuple[int, View]
"""A temporal window, 0 where there are none, and how the picture is turned."""


@dataclass(frozen=True)
class FeatureLayout:
    """How the features of a modality lie: for each alternative (window and view) one spec a feature, in the order of
    their tokens; the first is what a clip is where nothing is drawn. `test_views` are averaged at test: all windows, as
    they are."""

    alternatives: tuple[tuple[FeatureSpec, ...], ...]
    test_views: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, name: str, specs: Sequence[FeatureSpec]) -> Self:
        """name: the modality's. Raises UsageError unless all features have the same dimension and the same views, and
        among these the picture as it is."""
        dims = {spec.shape[-1] for spec in specs}
        if len(dims) > 1:
            each = ", ".join(f"{spec.name} {spec.shape[-1]}" for spec in specs)
            raise UsageError(f"{name} features have different dimensions ({each}): name features of one backbone")
        grouped: dict[str, dict[Alternative, FeatureSpec]] = {}
        for spec in specs:
            base, alternative = split_view(spec)
            grouped.setdefault(base, {})[alternative] = spec
        alternatives = _shared(name, {base: set(views) for base, views in grouped.items()})
        return cls(
            tuple(tuple(views[each] for views in grouped.values()) for each in alternatives),
            tuple(number for number, (_, view) in enumerate(alternatives) if view == "id"),
        )

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        return tuple(spec for each in self.alternatives for spec in each)

    @property
    def tokens_per_feature(self) -> tuple[int, ...]:
        """How many tokens each feature gives."""
        return tuple(math.prod(spec.shape[:-1]) for spec in self.alternatives[0])

    @property
    def shape(self) -> ModalityShape:
        """Of a clip, with its grid where all tokens are one grid's."""
        length, dim = sum(self.tokens_per_feature), self.alternatives[0][0].shape[-1]
        if len(self.tokens_per_feature) > 1:
            return ModalityShape(length, dim)
        (spec,) = self.alternatives[0]
        if spec.output == "filter_bank":
            return ModalityShape(length, dim, raw=True)
        if spec.output != "tokens" or spec.grid is None or len(spec.shape) != 2:
            return ModalityShape(length, dim)
        return ModalityShape(length, dim, spec.shape[0] - math.prod(spec.grid), spec.grid)

    @property
    def bytes_per_clip(self) -> int:
        """In memory."""
        return 4 * len(self.alternatives) * math.prod(self.shape[:2])

    def feature_positions(self, features: Sequence[str]) -> list[int]:
        """Which features of the first alternative are named. Raises UsageError for one that is not here."""
        bases = [split_view(spec)[0] for spec in self.alternatives[0]]
        found = []
        for feature in features:
            plain, _, key = feature.partition("@")
            meant = [split_view(spec)[0] for spec in self.specs if spec.name == plain and spec.key.startswith(key)]
            if not meant:
                raise UsageError(f"feature '{feature}' is not among those loaded: {', '.join(bases)}")
            found.append(bases.index(meant[0]))
        return list(dict.fromkeys(found))

    def only(self, chosen: Sequence[int]) -> Self:
        return replace(self, alternatives=tuple(tuple(each[one] for one in chosen) for each in self.alternatives))

    def stack_views(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Rows (B, *shape) by key -> float32 (B, V, T, D)."""
        dim = self.alternatives[0][0].shape[-1]
        views = [
            torch.cat([rows[spec.key].flatten(1).unflatten(1, (-1, dim)) for spec in each], dim=1)
            for each in self.alternatives
        ]
        return torch.stack(views, dim=1).float()


@dataclass(frozen=True)
class Modality:
    """One modality of every clip: tokens (n, T, D), NaN where `present` (n,) is False. T is time for video, and one
    token per audio image for audio.

    Of cached views (flips, temporal windows) training may draw: `views` (n, V, T, D), of which tokens are the first.
    `layout` says what lies where; numbers that no feature stands behind have none.
    """

    tokens: Tensor
    present: Tensor
    specs: tuple[FeatureSpec, ...] = ()
    views: Tensor | None = None
    layout: FeatureLayout | None = None

    @classmethod
    def of(
        cls, layout: FeatureLayout, rows: Mapping[str, NDArray[np.generic]], present: NDArray[np.bool_], device: str
    ) -> Self:
        """rows (n, *shape) by key; present (n,)."""
        views = layout.stack_views({key: torch.from_numpy(each.astype(np.float32)) for key, each in rows.items()})
        views[torch.from_numpy(~present)] = float("nan")
        views = views.to(device)
        several = views if len(layout.alternatives) > 1 else None
        return cls(views[:, 0], torch.from_numpy(present).to(device), layout.specs, several, layout)

    @classmethod
    def from_tokens(cls, tokens: NDArray[np.floating]) -> Self:
        """Numbers that no feature stands behind: (n, T, D), all NaN for clips without the modality."""
        present = ~np.isnan(tokens).all(axis=(1, 2))
        return cls(torch.from_numpy(tokens.astype(np.float32, copy=False)), torch.from_numpy(present))

    def to(self, device: str | torch.device) -> Self:
        """The same tensors on a device."""
        views = None if self.views is None else self.views.to(device)
        return replace(self, tokens=self.tokens.to(device), present=self.present.to(device), views=views)

    @property
    def shape(self) -> ModalityShape:
        length, dim = self.tokens.shape[1:]
        return ModalityShape(length, dim) if self.layout is None else self.layout.shape

    @property
    def tokens_per_feature(self) -> tuple[int, ...]:
        """How many of the tokens each feature gives."""
        return (self.tokens.shape[1],) if self.layout is None else self.layout.tokens_per_feature

    def only(self, features: Sequence[str]) -> Self:
        """Fewer features, under the names that they were loaded by. Raises UsageError for one that is not here."""
        if self.layout is None:
            raise UsageError("these numbers have no features' names to choose by")
        chosen = self.layout.feature_positions(features)
        starts = [0, *accumulate(self.tokens_per_feature)]
        tokens = torch.cat([torch.arange(starts[one], starts[one + 1]) for one in chosen]).to(self.tokens.device)
        layout = self.layout.only(chosen)
        views = None if self.views is None else self.views[:, :, tokens]
        return replace(self, tokens=self.tokens[:, tokens], specs=layout.specs, views=views, layout=layout)


@dataclass(frozen=True)
class StreamedModality:
    """One modality of every clip that is too large for memory: read batch by batch from `stores`, by key."""

    present: Tensor
    layout: FeatureLayout
    stores: Mapping[str, FeatureStore]

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        return self.layout.specs

    @property
    def shape(self) -> ModalityShape:
        return self.layout.shape

    @property
    def bytes_on_disk(self) -> int:
        return len(self.present) * sum(spec.bytes_per_clip for spec in self.specs)

    def only(self, features: Sequence[str]) -> Self:
        """Fewer features, as of `Modality`."""
        layout = self.layout.only(self.layout.feature_positions(features))
        return replace(self, layout=layout, stores={spec.key: self.stores[spec.key] for spec in layout.specs})


def split_view(spec: FeatureSpec) -> tuple[str, Alternative]:
    """A feature's name without window and view, and these."""
    window = _WINDOW.search(spec.name)
    plain = _WINDOW.sub("", spec.name)
    if spec.view != "id":
        plain = plain.removesuffix(f":{spec.view}")
    return plain, (int(window[1]) if window else 0, spec.view)


def _shared(name: str, grouped: Mapping[str, set[Alternative]]) -> list[Alternative]:
    """Windows and views in order, those that are not turned first."""
    (first, expected), *others = grouped.items()
    for base, views in others:
        if views != expected:
            raise UsageError(
                f"{name} features have different views: {_listed(expected)} of {first}, {_listed(views)} of {base}; "
                "name the same of each"
            )
    for window, _ in expected:
        if (window, "id") not in expected:
            raise UsageError(
                f"{name} feature {first} is named in views ({_listed(expected)}) without the picture as it is, which "
                "tests need: name that too"
            )
    return sorted(expected, key=lambda each: (each[0], VIEWS.index(each[1])))


def _listed(alternatives: Iterable[Alternative]) -> str:
    return ", ".join(f"{f'window {window} ' if window else ''}{view}" for window, view in sorted(alternatives))
