"""One modality of a data set: its features side by side, with cached views, in memory or left on disk."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import VIEWS, FeatureSpec, View
from avfuse.stages.fuse.data.shapes import ModalityShape

_WINDOW = re.compile(r":(\d+)of(\d+)")

Alternative = tuple[int, View]
"""The number of a temporal window, 0 where there are none, and a view, such as a flip."""


@dataclass(frozen=True)
class FeatureLayout:
    """The features of a modality in the order of their tokens, and their alternatives, windows times views."""

    alternatives: tuple[tuple[FeatureSpec, ...], ...]
    """Specs, one per feature, of each alternative. Index 0 is the unaugmented clip."""
    test_views: tuple[int, ...] = (0,)
    """The alternatives that are averaged at test: all windows, without flips."""

    @classmethod
    def of(cls, name: str, specs: Sequence[FeatureSpec]) -> Self:
        """Group the specs of a modality's features by window and view.

        name: the modality's. Raises UsageError unless all features have the same dimension and the same views, the
        unaugmented one among them.
        """
        dims = {spec.shape[-1] for spec in specs}
        if len(dims) > 1:
            listed = ", ".join(f"{spec.name} {spec.shape[-1]}" for spec in specs)
            raise UsageError(f"{name} features have different dimensions ({listed}): name features of one backbone")
        grouped: dict[str, dict[Alternative, FeatureSpec]] = {}
        for spec in specs:
            base, alternative = split_view(spec)
            grouped.setdefault(base, {})[alternative] = spec
        alternatives = _shared(name, {base: set(views) for base, views in grouped.items()})
        return cls(
            tuple(tuple(views[alternative] for views in grouped.values()) for alternative in alternatives),
            tuple(number for number, (_, view) in enumerate(alternatives) if view == "id"),
        )

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        """Specs of all alternatives."""
        return tuple(spec for features in self.alternatives for spec in features)

    @property
    def tokens_per_feature(self) -> tuple[int, ...]:
        """The number of tokens of each feature."""
        return tuple(math.prod(spec.shape[:-1]) for spec in self.alternatives[0])

    @property
    def shape(self) -> ModalityShape:
        """Shape of a clip, with a grid where there is one feature with one."""
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
        """float32, in memory, all alternatives."""
        return 4 * len(self.alternatives) * math.prod(self.shape[:2])

    def feature_positions(self, features: Sequence[str]) -> list[int]:
        """Positions of the named features. Raises UsageError for a name that is not loaded."""
        bases = [split_view(spec)[0] for spec in self.alternatives[0]]
        positions = []
        for feature in features:
            plain, _, key = feature.partition("@")
            matching = [split_view(spec)[0] for spec in self.specs if spec.name == plain and spec.key.startswith(key)]
            if not matching:
                raise UsageError(f"feature '{feature}' is not among those loaded: {', '.join(bases)}")
            positions.append(bases.index(matching[0]))
        return list(dict.fromkeys(positions))

    def only(self, positions: Sequence[int]) -> Self:
        """Fewer features."""
        chosen = (tuple(features[position] for position in positions) for features in self.alternatives)
        return replace(self, alternatives=tuple(chosen))

    def stack_views(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Tokens of all alternatives. rows: (B, *shape) by feature key -> float32 (B, V, T, D)."""
        dim = self.alternatives[0][0].shape[-1]
        views = [
            torch.cat([rows[spec.key].flatten(1).unflatten(1, (-1, dim)) for spec in features], dim=1)
            for features in self.alternatives
        ]
        return torch.stack(views, dim=1).float()


@dataclass(frozen=True)
class Modality:
    """One modality of every clip, in memory."""

    tokens: Tensor
    """(n, T, D), NaN where `present` is False; T frames for video, one token per audio image for audio."""
    present: Tensor
    """Whether a clip has the modality, bool (n,)."""
    specs: tuple[FeatureSpec, ...] = ()
    """Specs of the features."""
    views: Tensor | None = None
    """Cached views (n, V, T, D), of which training draws; `tokens` are the first."""
    layout: FeatureLayout | None = None
    """Layout of the features among the tokens; None for numbers without features."""

    @classmethod
    def of(
        cls, layout: FeatureLayout, rows: Mapping[str, NDArray[np.generic]], present: NDArray[np.bool_], device: str
    ) -> Self:
        """Build from rows of the cache.

        Args:
            layout: the features.
            rows: (n, *shape) by feature key.
            present: bool (n,).
            device: of the tensors.
        """
        views = layout.stack_views({key: torch.from_numpy(values.astype(np.float32)) for key, values in rows.items()})
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
        """The number of tokens of each feature."""
        return (self.tokens.shape[1],) if self.layout is None else self.layout.tokens_per_feature

    def read(self, indices: Tensor, clips: Sequence[Clip] = (), all_views: bool = False) -> Tensor:
        """Tokens as they are cached, (B, V, T, D), of the first view alone unless `all_views`. indices: (B,)."""
        return self.tokens[indices][:, None] if self.views is None or not all_views else self.views[indices]

    def only(self, features: Sequence[str]) -> Self:
        """Fewer features, under the names that they were loaded by. Raises UsageError for one that is not loaded."""
        if self.layout is None:
            raise UsageError("these numbers have no features' names to choose by")
        positions = self.layout.feature_positions(features)
        spans = torch.arange(self.tokens.shape[1]).split(self.tokens_per_feature)
        tokens = torch.cat([spans[position] for position in positions]).to(self.tokens.device)
        layout = self.layout.only(positions)
        views = None if self.views is None else self.views[:, :, tokens]
        return replace(self, tokens=self.tokens[:, tokens], specs=layout.specs, views=views, layout=layout)


@dataclass(frozen=True)
class StreamedModality:
    """One modality of every clip that is too large for memory, read from the cache batch by batch."""

    present: Tensor
    """Whether a clip has the modality, bool (n,)."""
    layout: FeatureLayout
    """The features."""
    stores: Mapping[str, FeatureStore]
    """Stores by feature key."""

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        return self.layout.specs

    @property
    def shape(self) -> ModalityShape:
        return self.layout.shape

    @property
    def bytes_on_disk(self) -> int:
        return len(self.present) * sum(spec.bytes_per_clip for spec in self.specs)

    def read(self, indices: Tensor, clips: Sequence[Clip], all_views: bool = False) -> Tensor:
        """`Modality.read` from the cache. clips: of the whole data set."""
        query = ClipQuery([clips[index] for index in indices.tolist()])
        rows = {key: torch.from_numpy(store.load(query).data.astype(np.float32)) for key, store in self.stores.items()}
        views = self.layout.stack_views(rows).to(indices.device)
        return views if all_views else views[:, :1]

    def only(self, features: Sequence[str]) -> Self:
        """Fewer features, as of `Modality`."""
        layout = self.layout.only(self.layout.feature_positions(features))
        return replace(self, layout=layout, stores={spec.key: self.stores[spec.key] for spec in layout.specs})


def split_view(spec: FeatureSpec) -> tuple[str, Alternative]:
    """A feature's name without window and view, and these two."""
    window = _WINDOW.search(spec.name)
    plain = _WINDOW.sub("", spec.name)
    if spec.view != "id":
        plain = plain.removesuffix(f":{spec.view}")
    return plain, (int(window[1]) if window else 0, spec.view)


def _shared(name: str, grouped: Mapping[str, set[Alternative]]) -> list[Alternative]:
    """Alternatives that all features have, in order, of each window the unaugmented one first. Raises UsageError where
    features differ, and for a window without its unaugmented view."""
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
    return sorted(expected, key=lambda alternative: (alternative[0], VIEWS.index(alternative[1])))


def _listed(alternatives: Iterable[Alternative]) -> str:
    return ", ".join(f"{f'window {window} ' if window else ''}{view}" for window, view in sorted(alternatives))
