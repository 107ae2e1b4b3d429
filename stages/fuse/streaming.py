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
    """The features of some clips."""

    tokens: dict[str, Tensor]
    """Tokens by feature, `(B, *shape)` as stored; NaN where `present` is False."""
    present: dict[str, Tensor]
    """Mask of the clips that have the feature, bool (B,), by feature."""
    index: Tensor
    """int64 (B,), positions in the stream's list of clips."""

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> "TensorBatch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "TensorBatch":
        """A copy in pinned memory; called by the DataLoader with pin_memory=True."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "TensorBatch":
        tokens = {name: change(tensor) for name, tensor in self.tokens.items()}
        present = {name: change(tensor) for name, tensor in self.present.items()}
        return TensorBatch(tokens, present, change(self.index))


class StreamDataset(IterableDataset[TensorBatch]):
    """The batches of a FeatureStream, shared among the workers of a DataLoader: shuffled, each worker reads its own
    shards; in the clips' order one worker reads everything, as neighbouring batches lie in one shard."""

    def __init__(self, stream: FeatureStream) -> None:
        self.stream = stream
        # In shared memory, so that it reaches persistent workers.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration. Without a call every epoch has the same."""
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
            # Raised here it would arrive as a page of traceback; StreamLoader raises it in the main process.
            yield UsageError(str(error))  # type: ignore[misc]


class StreamLoader(DataLoader[TensorBatch]):
    """A DataLoader that raises UsageError for a damaged shard, whichever process reads it."""

    dataset: StreamDataset

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration. Without a call every epoch has the same."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[TensorBatch]:  # type: ignore[override]
        return _raise_errors(super().__iter__())


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
        num_workers: reading processes, each of which holds up to `stream.memory_bytes`; 0 reads in a thread of this
            process, which is faster where files are in the page cache, as workers copy batches through shared memory.
            Shuffled, each worker reads its own shards, and its last batch may be smaller. Unshuffled, one worker is
            started at most: neighbouring batches lie in one shard, which several workers would each have to read.
        start_method: of workers; None for the system's default.
        pin_memory: whether batches come in pinned memory, for quicker copies to a GPU.
        prefetch_batches: batches that each worker reads ahead.
        persistent_workers: whether workers stay alive between epochs.

    Its iterator raises UsageError for a damaged or missing shard, and leaves torch's global random state as it is.
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


def _raise_errors(batches: Iterator[Any]) -> Iterator[TensorBatch]:
    message = None
    for batch in batches:
        if isinstance(batch, UsageError):
            message = str(batch)
            break
        yield batch
    del batches  # ends the workers now: as long as the error is held, its traceback would keep them
    if message is not None:
        raise UsageError(message)
