"""Features too large for memory, as batches of tensors from a DataLoader."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.errors import UsageError


@dataclass(frozen=True)
class TensorBatch:
    """Some clips' features, as heads take them. By feature: tokens `(B, *shape)` as they are stored, NaN where
    `present` (B,) is False. index (B,) int64: where the clips stand in the stream's list."""

    tokens: dict[str, Tensor]
    present: dict[str, Tensor]
    index: Tensor

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> "TensorBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "TensorBatch":
        """What the DataLoader calls with pin_memory=True."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "TensorBatch":
        tokens = {name: change(tensor) for name, tensor in self.tokens.items()}
        present = {name: change(tensor) for name, tensor in self.present.items()}
        return TensorBatch(tokens, present, change(self.index))


class StreamDataset(IterableDataset[TensorBatch]):
    """A FeatureStream's batches, shared among the workers of a DataLoader: shuffled, each reads its own shards. In the
    clips' order one worker reads everything, as neighbouring batches lie in one shard."""

    def __init__(self, stream: FeatureStream) -> None:
        self.stream = stream
        # In shared memory, so that it reaches workers that outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Which order the next iteration has. Without it every epoch has the same."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[TensorBatch]:
        epoch, worker = int(self._epoch), get_worker_info()
        if worker is None:
            yield from _tensors(self.stream, epoch, 0, 1)
            return
        part, parts = (worker.id, worker.num_workers) if self.stream.shuffle else (0, 1)
        if worker.id > 0 and parts == 1:
            return
        try:
            yield from _tensors(self.stream, epoch, part, parts)
        except UsageError as error:
            # Thrown, it would arrive as a page of traceback; StreamLoader throws it on the other side.
            yield UsageError(str(error))  # type: ignore[misc]


class StreamLoader(DataLoader[TensorBatch]):
    """A DataLoader that says what is wrong with a shard in one line, whichever process has found it."""

    dataset: StreamDataset

    def set_epoch(self, epoch: int) -> None:
        """Which order the next iteration has. Without it every epoch has the same."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[TensorBatch]:  # type: ignore[override]
        return _raising(super().__iter__())


def stream_loader(
    stream: FeatureStream,
    num_workers: int = 0,
    *,
    start_method: Literal["fork", "spawn", "forkserver"] | None = None,
    pin_memory: bool = False,
    prefetch_batches: int = 2,
    persistent_workers: bool = False,
) -> StreamLoader:
    """A DataLoader over a stream: every clip once an epoch, in an order that depends on the number of workers.

    Args:
        stream: with the size of batches, the seed and whether to shuffle.
        num_workers: reading processes, each of which holds up to `stream.memory_bytes`; 0 for a thread of this process,
            the quicker way where files are warm, as batches of workers come through shared memory. Shuffled, each
            worker reads its own shards and ends with a batch that may be smaller. Unshuffled, one reads and no more are
            started: neighbouring batches lie in one shard, and several workers would each have to read them all.
        start_method: how workers start, None for the system's way.
        pin_memory: whether batches come in pinned memory, for quicker copies to a GPU.
        prefetch_batches: how many batches each worker makes beforehand.
        persistent_workers: whether workers go on to the next epoch.

    Its iterator raises UsageError for a shard that is damaged or gone, and leaves torch's random numbers as they are.
    """
    workers = num_workers if stream.shuffle else min(num_workers, 1)
    return StreamLoader(
        StreamDataset(stream),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=start_method if workers else None,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_batches if workers else None,
        persistent_workers=persistent_workers and workers > 0,
        generator=torch.Generator(),
    )


def _tensors(stream: FeatureStream, epoch: int, part: int, parts: int) -> Iterator[TensorBatch]:
    for batch in stream.batches(epoch, part, parts):
        tokens = {name: torch.from_numpy(rows) for name, rows in batch.data.items()}
        present = {name: torch.from_numpy(mask) for name, mask in batch.present.items()}
        yield TensorBatch(tokens, present, torch.from_numpy(batch.index))


def _raising(batches: Iterator[Any]) -> Iterator[TensorBatch]:
    trouble = None
    for batch in batches:
        if isinstance(batch, UsageError):
            trouble = str(batch)
            break
        yield batch
    del batches  # ends the workers now: as long as the error is held, its traceback would keep them
    if trouble is not None:
        raise UsageError(trouble)
