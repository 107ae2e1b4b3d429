"""A data set as one kind of head takes it: standardised once in memory, or batch by batch as it is read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality, StreamedModality
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head
from avfuse.stages.fuse.heads.base import Masks
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.training.streamed_batches import (
    StreamedBatches,
    evaluation_batch_size,
)


@dataclass(frozen=True)
class HeadBatch:
    """A batch of clips, as a head takes it."""

    index: Tensor
    """int64 (B,), positions in the data set."""
    prepared: dict[str, Tensor]
    """Features by modality, float32 (B, ...), standardised and in the head's layout."""
    present: dict[str, Tensor | None]
    """Mask of the clips that have a modality, bool (B,) by modality; None: all."""


@dataclass(frozen=True)
class Views:
    """The cached views (flips, temporal windows) of a modality that a recipe uses."""

    count: int = 1
    test_views: tuple[int, ...] = (0,)
    """Those whose logits are averaged at test."""
    tokens_per_feature: tuple[int, ...] = ()
    """Training draws a view for each feature independently."""

    @classmethod
    def of(cls, modality: Modality | StreamedModality, recipe: Recipe) -> "Views":
        layout = modality.layout
        if layout is None or len(layout.alternatives) == 1 or not recipe.views:
            return cls()
        return cls(len(layout.alternatives), layout.test_views, layout.tokens_per_feature)


@dataclass(frozen=True)
class HeadInputs:
    """A data set as one kind of head takes it, standardised by the statistics of the clips that are fitted."""

    template: Head
    """A head with these statistics, not trained."""
    options: Settings
    """The options of `template`."""
    stored: Mapping[str, Tensor]
    """The modalities in memory, float32 (n, ...) in the head's layout, or (n, V, T, D) where there are views."""
    views: Mapping[str, Views]
    """Views by modality."""
    present: Masks
    """Mask of the clips that have a modality, bool (n,) by modality; None: all."""
    indices: Tensor
    """int64, the clips that are fitted."""
    streamed: StreamedBatches | None = None
    """The modalities that are read from the cache batch by batch, where there are any."""

    @classmethod
    def of(cls, name: str, data: FusionData, indices: Tensor, options: Settings, recipe: Recipe) -> "HeadInputs":
        """Standardise a data set for a kind of head.

        Args:
            name: of the head.
            data: the data set.
            indices: int64, the clips to fit.
            options: of the head.
            recipe: says which views are used, and which modality is left out.
        """
        device = indices.device
        with torch.random.fork_rng(devices=rng_devices(device)):
            head = build_head(name, data.shapes, data.targets, options).to(device).eval()
        present: dict[str, Tensor | None] = {}
        stored: dict[str, Tensor] = {}
        streamed: dict[str, StreamedModality] = {}
        views = {}
        for key, modality_input in head.modality_inputs().items():
            modality = data.modalities[key]
            present[key] = _mask(modality, recipe.without == key)
            views[key] = Views.of(modality, recipe)
            if isinstance(modality, StreamedModality):
                streamed[key] = modality
                continue
            in_batches = indices.split(evaluation_batch_size(modality.shape))
            modality_input.fit((modality.tokens[index], modality.present[index]) for index in in_batches)
            stored[key] = _stored(modality_input, modality, views[key])
        for key, modality in streamed.items():
            batches_of_modality = StreamedBatches({key: modality}, data.clips).read(indices)
            head.modality_inputs()[key].fit(
                (tokens[key][:, 0], modality.present[index]) for index, tokens in batches_of_modality
            )
        batches = StreamedBatches(streamed, data.clips) if streamed else None
        return cls(head, options, stored, views, present, indices, batches)

    @classmethod
    def of_trained(
        cls, head: Head, modalities: Mapping[str, Modality], indices: Tensor, options: Settings, recipe: Recipe
    ) -> "HeadInputs":
        """Standardise other clips with a trained head's own statistics.

        Args:
            head: the trained head.
            modalities: of the clips, all in memory.
            indices: int64, the clips to predict.
            options: the head's.
            recipe: the one that the head was trained with.
        """
        views = {key: Views.of(modalities[key], recipe) for key in head.modality_inputs()}
        present = {key: _mask(modalities[key], recipe.without == key) for key in views}
        stored = {
            key: _stored(modality_input, modalities[key], views[key])
            for key, modality_input in head.modality_inputs().items()
        }
        return cls(head, options, stored, views, present, indices)

    @property
    def targets(self) -> Targets:
        return self.template.targets

    @property
    def shapes(self) -> Mapping[str, ModalityShape]:
        """Shapes of the modalities that the head uses."""
        return {name: modality_input.shape for name, modality_input in self.template.modality_inputs().items()}

    def new_head(self) -> Head:
        """A freshly initialised head with these statistics."""
        head = build_head(self.template.name, self.shapes, self.targets, self.options).to(self.indices.device)
        buffers = {name for name, _ in self.template.named_buffers()}
        statistics = {name: value for name, value in self.template.state_dict().items() if name in buffers}
        head.load_state_dict(statistics, strict=False)
        return head

    def training_batches(
        self, recipe: Recipe, epoch: int, batches: Sequence[Tensor], seed: int, rng: torch.Generator
    ) -> Iterator[HeadBatch]:
        """The batches of one epoch, augmented.

        Args:
            recipe: says what is drawn.
            epoch: its number, from 1.
            batches: indices int64 (B,). Where a modality is streamed, the stream's own random order of this seed and
                epoch takes their place.
            seed: of that order.
            rng: draws views and dropped modalities.
        """
        if self.streamed is None:
            for index in batches:
                yield self.training_batch(index, recipe, rng)
            return
        for index, tokens in self.streamed.read(self.indices, recipe.batch_size, shuffle=True, seed=seed, epoch=epoch):
            yield self.training_batch(index, recipe, rng, self._standardised(index, tokens))

    def training_batch(
        self, indices: Tensor, recipe: Recipe, rng: torch.Generator, streamed: Mapping[str, Tensor] | None = None
    ) -> HeadBatch:
        """Clips for training, augmented: a view is drawn for each clip and feature, and with modality dropout some
        clips that have both modalities lose one.

        Args:
            indices: int64 (B,).
            recipe: says what is drawn.
            rng: draws it.
            streamed: the standardised tokens of streamed modalities, (B, V, T, D).
        """
        prepared = {}
        for name, views in self.views.items():
            tokens = None if streamed is None else streamed.get(name)
            if views.count == 1:
                prepared[name] = (
                    self.stored[name].index_select(0, indices)
                    if tokens is None
                    else self._to_layout(name, tokens[:, 0])
                )
                continue
            per_feature = (len(indices), len(views.tokens_per_feature))
            drawn = torch.randint(views.count, per_feature, generator=rng, device=rng.device)
            counts = torch.tensor(views.tokens_per_feature, device=drawn.device)
            view = drawn.repeat_interleave(counts, dim=1)  # (B, T)
            position = torch.arange(view.shape[1], device=drawn.device)
            if tokens is None:
                augmented = self.stored[name][indices[:, None], view, position]
            else:
                augmented = tokens[torch.arange(len(tokens), device=tokens.device)[:, None], view, position]
            prepared[name] = self._to_layout(name, augmented)
        present = self._present(indices)
        if recipe.modality_dropout and len(present) == 2:
            present = _drop_modality(present, indices, recipe.modality_dropout, rng)
        return HeadBatch(indices, prepared, present)

    def evaluation_batches(self, indices: Tensor) -> Iterator[tuple[Tensor, list[HeadBatch]]]:
        """Clips for evaluation: positions in `indices`, and a batch of these clips for each test view."""
        size = min(
            self.template.evaluation_batch_size, *(evaluation_batch_size(shape) for shape in self.shapes.values())
        )
        passes = range(self.evaluation_passes)
        if self.streamed is None:
            for positions in torch.arange(len(indices), device=indices.device).split(size):
                yield positions, [self.evaluation_batch(indices[positions], number) for number in passes]
            return
        position_of = torch.full((int(indices.max()) + 1 if len(indices) else 0,), -1, device=indices.device)
        position_of[indices] = torch.arange(len(indices), device=indices.device)
        for index, tokens in self.streamed.read(indices, size):
            streamed = self._standardised(index, tokens)
            yield position_of[index], [self.evaluation_batch(index, number, streamed) for number in passes]

    def evaluation_batch(
        self, indices: Tensor, number: int = 0, streamed: Mapping[str, Tensor] | None = None
    ) -> HeadBatch:
        """Clips for evaluation, in one of their test views.

        Args:
            indices: int64 (B,).
            number: of the test view, from 0.
            streamed: the standardised tokens of streamed modalities, (B, V, T, D).
        """
        prepared = {}
        for name, views in self.views.items():
            view = views.test_views[number % len(views.test_views)]
            if streamed is not None and name in streamed:
                prepared[name] = self._to_layout(name, streamed[name][:, view])
            elif views.count == 1:
                prepared[name] = self.stored[name].index_select(0, indices)
            else:
                prepared[name] = self._to_layout(name, self.stored[name][indices, view])
        return HeadBatch(indices, prepared, self._present(indices))

    @property
    def evaluation_passes(self) -> int:
        """The number of views per clip whose logits are averaged."""
        return max(len(views.test_views) for views in self.views.values())

    def _present(self, indices: Tensor) -> dict[str, Tensor | None]:
        return {key: None if mask is None else mask[indices] for key, mask in self.present.items()}

    def _to_layout(self, name: str, standardised: Tensor) -> Tensor:
        return self.template.modality_inputs()[name].to_layout(standardised)

    def _standardised(self, index: Tensor, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Streamed tokens (B, V, T, D) of a batch, standardised."""
        assert self.streamed is not None
        inputs, modalities = self.template.modality_inputs(), self.streamed.modalities
        return {
            name: inputs[name].standardise(values, modalities[name].present[index]) for name, values in tokens.items()
        }


def _mask(modality: Modality | StreamedModality, left_out: bool) -> Tensor | None:
    """Mask of the clips that have a modality, bool (n,); None: all. left_out: the recipe leaves it out of all clips."""
    mask = torch.zeros_like(modality.present) if left_out else modality.present
    return None if mask.all() else mask


def _stored(modality_input: ModalityInput, modality: Modality, views: Views) -> Tensor:
    """A modality as `HeadInputs.stored` has it."""
    if modality.views is None or views.count == 1:
        return _in_batches(modality.tokens, modality.present, modality_input.prepare)
    standardised = [
        _in_batches(view, modality.present, modality_input.standardise) for view in modality.views.unbind(1)
    ]
    return torch.stack(standardised, dim=1)


def _in_batches(tokens: Tensor, present: Tensor, prepare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Prepare all clips batch by batch, so that intermediate tensors stay small."""
    size = evaluation_batch_size(ModalityShape(*tokens.shape[1:]))
    return torch.cat([prepare(*batch) for batch in zip(tokens.split(size), present.split(size), strict=True)])


def _drop_modality(
    present: Mapping[str, Tensor | None], indices: Tensor, probability: float, rng: torch.Generator
) -> dict[str, Tensor | None]:
    """Masks in which clips with both modalities lose one with this probability, either one as often."""
    (first, has_first), (second, has_second) = (
        (name, torch.ones_like(indices, dtype=torch.bool) if mask is None else mask) for name, mask in present.items()
    )
    draw = torch.rand(len(indices), generator=rng, device=rng.device)
    both = has_first & has_second
    return {
        first: has_first & ~(both & (draw < probability / 2)),
        second: has_second & ~(both & (draw > 1 - probability / 2)),
    }


def rng_devices(device: torch.device) -> list[torch.device]:
    """The devices besides the CPU whose random states torch.random.fork_rng is to keep."""
    return [device] if device.type == "cuda" else []
