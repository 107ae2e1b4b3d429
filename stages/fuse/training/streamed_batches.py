"""Batches of modalities that are too large for memory, read from the cache shard by shard."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.clips import Clip
from avfuse.stages.fuse.data.modality import StreamedModality
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.streaming import stream_loader

EVALUATION_CLIPS, EVALUATION_BYTES = 1024, 2**28
"""A batch outside training has at most so many clips, and so many bytes of one modality."""


def evaluation_batch_size(shape: ModalityShape) -> int:
    """Clips per batch outside training."""
    return max(1, min(EVALUATION_CLIPS, EVALUATION_BYTES // (4 * shape.length * shape.dim)))


class StreamedBatches:
    """The streamed modalities of a data set, batch by batch.

    Args:
        modalities: by name.
        clips: all clips of the data set.
    """

    def __init__(self, modalities: Mapping[str, StreamedModality], clips: Sequence[Clip]) -> None:
        self.modalities, self._clips = modalities, clips
        self._streams: dict[tuple[bytes, int, bool, int], FeatureStream] = {}

    def read(
        self, indices: Tensor, size: int | None = None, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Read clips: indices int64 (B,) of a batch, and its tokens (B, V, T, D) by modality, NaN where missing.

        Clips without any cached row are dealt out among the batches.

        Args:
            indices: int64 (n,), positions in the data set.
            size: clips per batch; by default `evaluation_batch_size`.
            shuffle: whether to read in a random order.
            seed: of that order.
            epoch: each has another order.
        """
        if size is None:
            size = min(evaluation_batch_size(modality.shape) for modality in self.modalities.values())
        cached = torch.stack([modality.present[indices] for modality in self.modalities.values()]).any(dim=0)
        if not cached.any():
            for index in indices.split(size):
                yield index, {name: self._missing(name, len(index), indices.device) for name in self.modalities}
            return
        stream = self._stream(indices, size, shuffle, seed)
        loader = stream_loader(stream, pin_memory=indices.device.type == "cuda")
        loader.set_epoch(epoch)
        in_stream = torch.from_numpy(stream.positions)
        others = torch.ones(len(indices), dtype=torch.bool)
        others[in_stream] = False
        dealt = indices[others.to(indices.device)].tensor_split(math.ceil(len(in_stream) / size))
        for batch, other in zip(loader, dealt, strict=True):
            on_device = batch.to(indices.device, non_blocking=True)
            tokens = {
                name: torch.cat(
                    [modality.layout.stack_views(on_device.tokens), self._missing(name, len(other), indices.device)]
                )
                for name, modality in self.modalities.items()
            }
            yield torch.cat([indices[on_device.index], other]), tokens

    def _missing(self, name: str, clips: int, device: torch.device) -> Tensor:
        layout = self.modalities[name].layout
        shape = (clips, len(layout.alternatives), layout.shape.length, layout.shape.dim)
        return torch.full(shape, float("nan"), device=device)

    def _stream(self, indices: Tensor, size: int, shuffle: bool, seed: int) -> FeatureStream:
        """A stream of these clips, made once: looking rows up in a large cache takes time."""
        key = (indices.cpu().numpy().tobytes(), size, shuffle, seed)
        if key not in self._streams:
            stores = {key: store for modality in self.modalities.values() for key, store in modality.stores.items()}
            clips = [self._clips[index] for index in indices.tolist()]
            self._streams[key] = FeatureStream(stores, clips, size, seed=seed, shuffle=shuffle)
        return self._streams[key]
