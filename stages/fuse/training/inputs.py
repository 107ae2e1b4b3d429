"""A data set as one kind of head takes it: prepared on the device once, or prepared batch by batch as it is read."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.clips import Clip
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality, StreamedModality
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head
from avfuse.stages.fuse.heads.base import Masks
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.streaming import stream_loader

_EVALUATION_BATCH, _EVALUATION_BYTES = 1024, 2**28


@dataclass(frozen=True)
class HeadBatch:
    """Clips at index (B,) of the data set, prepared, and which have what."""

    index: Tensor
    prepared: dict[str, Tensor]
    present: dict[str, Tensor | None]


@dataclass(frozen=True)
class Views:
    """Of a modality's cached views, how many there are, which are averaged at test, and how many tokens each feature
    gives, as features are drawn independently."""

    count: int = 1
    at_test: tuple[int, ...] = (0,)
    parts: tuple[int, ...] = ()

    @classmethod
    def of(cls, modality: Modality | StreamedModality, recipe: Recipe) -> "Views":
        layout = modality.layout
        if layout is None or len(layout.alternatives) == 1 or not recipe.views:
            return cls()
        return cls(len(layout.alternatives), layout.test_views, layout.tokens_per_feature)


@dataclass(frozen=True)
class HeadInputs:
    """A data set as one kind of head takes it, standardised by the clips at `indices`, which it is fitted on.

    stored: modalities in memory, float32 (n, ...) as heads take them, or where there are views (n, V, T, D).
    """

    template: Head
    options: Settings
    stored: Mapping[str, Tensor]
    streamed: Mapping[str, StreamedModality]
    views: Mapping[str, Views]
    present: Masks
    indices: Tensor
    clips: Sequence[Clip]
    _streams: dict[tuple[bytes, int, bool, int], FeatureStream] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, data: FusionData, indices: Tensor, options: Settings, recipe: Recipe) -> "HeadInputs":
        device = indices.device
        with torch.random.fork_rng(devices=rng_devices(device)):
            head = build_head(name, data.shapes, data.targets, options).to(device).eval()
        present: dict[str, Tensor | None] = {}
        stored: dict[str, Tensor] = {}
        streamed: dict[str, StreamedModality] = {}
        views = {}
        for key, door in head.modality_inputs().items():
            modality = data.modalities[key]
            present[key] = _mask(modality, recipe.without == key)
            views[key] = Views.of(modality, recipe)
            if isinstance(modality, StreamedModality):
                streamed[key] = modality
                continue
            parts = indices.split(_evaluation_batch_size(modality.shape))
            door.fit((modality.tokens[part], modality.present[part]) for part in parts)
            stored[key] = _stored(door, modality, views[key])
        inputs = cls(head, options, stored, streamed, views, present, indices, data.clips)
        for key, modality in streamed.items():
            alone = cls(head, options, {}, {key: modality}, views, present, indices, data.clips)
            head.modality_inputs()[key].fit(
                (tokens[key][:, 0], modality.present[part]) for part, tokens in alone._read(indices)
            )
        return inputs

    @classmethod
    def of_trained(
        cls, head: Head, modalities: Mapping[str, Modality], indices: Tensor, options: Settings, recipe: Recipe
    ) -> "HeadInputs":
        """Clips that a trained head was not fitted on, standardised as the head was trained. options, recipe: its."""
        views = {key: Views.of(modalities[key], recipe) for key in head.modality_inputs()}
        present = {key: _mask(modalities[key], recipe.without == key) for key in views}
        stored = {key: _stored(door, modalities[key], views[key]) for key, door in head.modality_inputs().items()}
        return cls(head, options, stored, {}, views, present, indices, ())

    @property
    def targets(self) -> Targets:
        return self.template.targets

    @property
    def shapes(self) -> Mapping[str, ModalityShape]:
        """Of the modalities that the head sees."""
        return {name: door.shape for name, door in self.template.modality_inputs().items()}

    def head(self) -> Head:
        """A freshly initialised head with these statistics."""
        head = build_head(self.template.name, self.shapes, self.targets, self.options).to(self.indices.device)
        buffers = {name for name, _ in self.template.named_buffers()}
        statistics = {name: value for name, value in self.template.state_dict().items() if name in buffers}
        head.load_state_dict(statistics, strict=False)
        return head

    def training_batch(
        self,
        indices: Tensor,
        recipe: Recipe,
        draws: torch.Generator,
        read: Mapping[str, Tensor] | None = None,
    ) -> HeadBatch:
        """The clips at indices (B,) for training: of cached views one is drawn for each clip and feature, and of clips
        with both modalities some lose one. read: what is streamed of them, standardised, (B, V, T, D)."""
        prepared = {}
        for name, views in self.views.items():
            own = None if read is None else read.get(name)
            if views.count == 1:
                prepared[name] = (
                    self.stored[name].index_select(0, indices) if own is None else self._shaped(name, own[:, 0])
                )
                continue
            chosen = torch.randint(views.count, (len(indices), len(views.parts)), generator=draws, device=draws.device)
            of_tokens = chosen.repeat_interleave(torch.tensor(views.parts, device=chosen.device), dim=1)
            tokens = torch.arange(of_tokens.shape[1], device=chosen.device)
            if own is None:
                picked = self.stored[name][indices[:, None], of_tokens, tokens]
            else:
                picked = own[torch.arange(len(own), device=own.device)[:, None], of_tokens, tokens]
            prepared[name] = self._shaped(name, picked)
        present = self._present(indices)
        if recipe.modality_dropout and len(present) == 2:
            present = _drop_one(present, indices, recipe.modality_dropout, draws)
        return HeadBatch(indices, prepared, present)

    def epoch(
        self, recipe: Recipe, number: int, batches: Sequence[Tensor], seed: int, draws: torch.Generator
    ) -> Iterator[HeadBatch]:
        """One epoch's batches, drawn: those given, or where a modality is streamed, in the stream's own random order
        of this seed and epoch."""
        if not self.streamed:
            for batch in batches:
                yield self.training_batch(batch, recipe, draws)
            return
        for index, tokens in self._read(self.indices, recipe.batch_size, True, seed, number):
            yield self.training_batch(index, recipe, draws, self._standardised(index, tokens))

    def evaluation_batches(self, indices: Tensor) -> Iterator[tuple[Tensor, list[HeadBatch]]]:
        """All clips at indices, some at a time: where they stand in indices, and a batch for each of the views that
        are averaged."""
        passes = max(len(views.at_test) for views in self.views.values())
        size = min(
            self.template.evaluation_batch_size, *(_evaluation_batch_size(shape) for shape in self.shapes.values())
        )
        if not self.streamed:
            for where in torch.arange(len(indices), device=indices.device).split(size):
                yield where, [self.evaluation_batch(indices[where], number) for number in range(passes)]
            return
        places = torch.full((int(indices.max()) + 1 if len(indices) else 0,), -1, device=indices.device)
        places[indices] = torch.arange(len(indices), device=indices.device)
        for index, tokens in self._read(indices, size):
            read = self._standardised(index, tokens)
            yield places[index], [self.evaluation_batch(index, number, read) for number in range(passes)]

    def evaluation_batch(self, indices: Tensor, number: int = 0, read: Mapping[str, Tensor] | None = None) -> HeadBatch:
        """The clips at indices (B,) as at test: the view of pass `number`. read: as of `training_batch`."""
        prepared = {}
        for name, views in self.views.items():
            which = views.at_test[number % len(views.at_test)]
            if read is not None and name in read:
                prepared[name] = self._shaped(name, read[name][:, which])
            elif views.count == 1:
                prepared[name] = self.stored[name].index_select(0, indices)
            else:
                prepared[name] = self._shaped(name, self.stored[name][indices, which])
        return HeadBatch(indices, prepared, self._present(indices))

    @property
    def evaluation_passes(self) -> int:
        """How many views of a clip are averaged."""
        return max(len(views.at_test) for views in self.views.values())

    def _present(self, indices: Tensor) -> dict[str, Tensor | None]:
        return {key: None if mask is None else mask[indices] for key, mask in self.present.items()}

    def _shaped(self, name: str, standardised: Tensor) -> Tensor:
        return self.template.modality_inputs()[name].to_layout(standardised)

    def _standardised(self, index: Tensor, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        doors = self.template.modality_inputs()
        return {
            name: doors[name].standardise(each, self.streamed[name].present[index]) for name, each in tokens.items()
        }

    def _read(
        self, indices: Tensor, size: int | None = None, shuffle: bool = False, seed: int = 0, epoch: int = 0
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """What is streamed of clips, batch by batch: their indices (B,), and (B, V, T, D) by modality. Clips that no
        shard has anything of are dealt out among the batches."""
        if size is None:
            size = min(_evaluation_batch_size(modality.shape) for modality in self.streamed.values())
        anything = torch.stack([modality.present[indices] for modality in self.streamed.values()]).any(dim=0)
        if not anything.any():
            for part in indices.split(size):
                yield part, {name: self._nothing(name, len(part)) for name in self.streamed}
            return
        stream = self._stream(indices, size, shuffle, seed)
        loader = stream_loader(stream, pin_memory=indices.device.type == "cuda")
        loader.set_epoch(epoch)
        known = torch.from_numpy(stream.positions)
        others = torch.ones(len(indices), dtype=torch.bool)
        others[known] = False
        count = math.ceil(len(known) / size)
        dealt = indices[others.to(indices.device)].tensor_split(count)
        for number, batch in enumerate(loader):
            moved = batch.to(indices.device, non_blocking=True)
            index = torch.cat([indices[moved.index], dealt[number]])
            tokens = {
                name: torch.cat([modality.layout.stack_views(moved.tokens), self._nothing(name, len(dealt[number]))])
                for name, modality in self.streamed.items()
            }
            yield index, tokens

    def _nothing(self, name: str, clips: int) -> Tensor:
        layout = self.streamed[name].layout
        shape = (clips, len(layout.alternatives), layout.shape.length, layout.shape.dim)
        return torch.full(shape, float("nan"), device=self.indices.device)

    def _stream(self, indices: Tensor, size: int, shuffle: bool, seed: int) -> FeatureStream:
        """Looked up once: the cache is large."""
        key = (indices.cpu().numpy().tobytes(), size, shuffle, seed)
        if key not in self._streams:
            stores = {key: store for modality in self.streamed.values() for key, store in modality.stores.items()}
            clips = [self.clips[index] for index in indices.tolist()]
            self._streams[key] = FeatureStream(stores, clips, size, seed=seed, shuffle=shuffle)
        return self._streams[key]


def _evaluation_batch_size(shape: ModalityShape) -> int:
    """Clips that are handled at a time where nothing is trained."""
    return max(1, min(_EVALUATION_BATCH, _EVALUATION_BYTES // (4 * shape.length * shape.dim)))


def _mask(modality: Modality | StreamedModality, left_out: bool) -> Tensor | None:
    """Which clips have it, of `Masks`. left_out: by the recipe no clip has."""
    here = torch.zeros_like(modality.present) if left_out else modality.present
    return None if here.all() else here


def _stored(door: ModalityInput, modality: Modality, views: Views) -> Tensor:
    """Of `HeadInputs.stored`."""
    if modality.views is None or views.count == 1:
        return _in_parts(modality.tokens, modality.present, door.prepare)
    every = [_in_parts(view, modality.present, door.standardise) for view in modality.views.unbind(1)]
    return torch.stack(every, dim=1)


def _in_parts(tokens: Tensor, present: Tensor, prepare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Clips some at a time, so that what is made on the way is never large."""
    size = max(1, min(_EVALUATION_BATCH, _EVALUATION_BYTES // (4 * tokens[0].numel())))
    return torch.cat([prepare(*part) for part in zip(tokens.split(size), present.split(size), strict=True)])


def _drop_one(
    present: Mapping[str, Tensor | None], indices: Tensor, share: float, draws: torch.Generator
) -> dict[str, Tensor | None]:
    (one, of_one), (other, of_other) = (
        (name, torch.ones_like(indices, dtype=torch.bool) if mask is None else mask) for name, mask in present.items()
    )
    chance = torch.rand(len(indices), generator=draws, device=draws.device)
    both = of_one & of_other
    return {one: of_one & ~(both & (chance < share / 2)), other: of_other & ~(both & (chance > 1 - share / 2))}


def rng_devices(device: torch.device) -> list[torch.device]:
    """Whose random states torch.random.fork_rng is to keep, besides the CPU's."""
    return [device] if device.type == "cuda" else []
