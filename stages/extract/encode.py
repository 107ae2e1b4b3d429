"""Batches of images, clips or filter banks through a loaded backbone."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.backbones import Encoded, Grid
from avfuse.features.backbones.loading import Encoder
from avfuse.features.spec import Preprocess

CPU_BATCH_IMAGES, GPU_BATCH_IMAGES = 8, 128
"""Frames and audio images. On a CPU small batches are faster: their activations stay in its cache."""

CPU_BATCH_CLIPS, GPU_BATCH_CLIPS = 1, 16
"""Clips and filter banks, each of which costs as much as many images."""

_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "MPS backend out of memory")
"""Messages of plain RuntimeErrors by which libraries report it."""


class OutputLayout(NamedTuple):
    """The part of a network's output that is kept: its pooled vector where `cells` is None, else its tokens, with their
    `grid` averaged down to `cells`."""

    grid: Grid | None
    cells: tuple[int, ...] | None

    def select(self, encoded: Encoded) -> Tensor:
        if self.cells is None:
            return encoded.pooled
        assert self.grid is not None
        assert encoded.tokens is not None
        return pool_tokens(encoded.tokens, self.grid, self.cells)


class OutputSlot(NamedTuple):
    """The array into which one item's feature is written."""

    layout: OutputLayout
    array: NDArray[np.float32]


class _ForwardPass(NamedTuple):
    """A batch whose outputs are on their way to main memory."""

    outputs: dict[OutputLayout, Tensor]
    slots: list[list[OutputSlot]]
    arrived: "torch.cuda.Event | None"


class Batcher:
    """Gathers items of any number of clips into batches of one fixed size.

    The last batch is filled up with repeats, so that every forward pass has the same shape and an item's feature does
    not depend on how many others there are. One pass serves all features of an item.

    On a GPU the next batch is gathered in pinned memory during the forward pass of the last; copies are asynchronous,
    and results are written once they have arrived, at the latest when `flush` returns.
    """

    def __init__(
        self,
        encoder: Encoder,
        preprocess: Preprocess | None,
        shape: tuple[int, ...],
        dtype: type[np.uint8 | np.float32],
        size: int,
        device: str,
    ) -> None:
        """Allocate the batches.

        Args:
            encoder: the network.
            preprocess: how values are normalised.
            shape, dtype: of one item.
            size: items per batch.
            device: of the network.
        """
        self._encoder = encoder
        self._preprocess = preprocess
        self._device = device
        self._asynchronous = device.startswith("cuda")
        buffers = 2 if self._asynchronous else 1
        batches = torch.empty(
            (buffers, size, *shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=self._asynchronous
        )
        self._buffers = deque(batches)
        self._max_items = size
        self._slots: list[list[OutputSlot]] = []
        self._passes: deque[_ForwardPass] = deque()

    def add(self, item: NDArray[np.generic], slots: list[OutputSlot]) -> None:
        """Add an item, whose features are written into `slots`."""
        buffer = self._buffers[0]
        buffer.numpy()[len(self._slots)] = item
        self._slots.append(slots)
        if len(self._slots) == len(buffer):
            self._start()

    def flush(self) -> None:
        """Encode the items that have been gathered and write all results."""
        if self._slots:
            self._start()
        while self._passes:
            self._finish()

    def _start(self) -> None:
        items = self._buffers[0]
        items[len(self._slots) :] = items[0]
        encoded = self._encode(items)
        layouts = {slot.layout for slots in self._slots for slot in slots}
        outputs = {layout: self._to_host(layout.select(encoded).float()) for layout in layouts}
        arrived = None
        if self._asynchronous:
            arrived = torch.cuda.current_stream(self._device).record_event()
        self._passes.append(_ForwardPass(outputs, self._slots, arrived))
        self._slots = []
        self._buffers.rotate()
        if len(self._passes) == len(self._buffers):
            self._finish()  # its buffer is filled next

    def _to_host(self, values: Tensor) -> Tensor:
        if not self._asynchronous:
            return values.cpu()
        return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)

    def _finish(self) -> None:
        done = self._passes.popleft()
        if done.arrived is not None:
            done.arrived.synchronize()
        outputs = {layout: values.numpy() for layout, values in done.outputs.items()}
        for row, slots in enumerate(done.slots):
            for slot in slots:
                slot.array[...] = outputs[slot.layout][row]

    def _encode(self, items: Tensor) -> Encoded:
        """Encode a batch in parts that fit in the device's memory. Where a part does not, the size is halved for good,
        so that the failure is not repeated with every batch."""
        while True:
            try:
                return _joined([self._encoder(part, self._preprocess) for part in items.split(self._max_items)])
            except RuntimeError as error:
                if self._max_items == 1 or not _is_out_of_memory(error):
                    raise
            self._max_items = (self._max_items + 1) // 2
            torch.cuda.empty_cache()  # outside the except clause, whose traceback holds tensors


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _joined(parts: Sequence[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return Encoded(torch.cat([part.pooled for part in parts]), torch.cat(tokens) if tokens else None)


def pool_tokens(tokens: Tensor, grid: Grid, cells: tuple[int, ...]) -> Tensor:
    """Average the grid of tokens (B, prefix + cells of the grid, D) down to (B, prefix + cells, D).

    Each new cell is the mean of as many whole old ones as fit; a remainder at the end of a dimension is dropped (of
    AST's 12 x 101, 6 x 50 averages 2 x 2 and drops the last column).
    """
    if cells == grid.cells:
        return tokens
    prefix, patches = tokens[:, : grid.prefix], tokens[:, grid.prefix :]
    batch, _, dim = tokens.shape
    steps = [old // new for old, new in zip(grid.cells, cells, strict=True)]
    averaged = patches.reshape(batch, *grid.cells, dim)
    for axis, (step, new) in enumerate(zip(steps, cells, strict=True), start=1):
        averaged = averaged.narrow(axis, 0, step * new).unflatten(axis, (new, step)).mean(dim=axis + 1)
    return torch.cat([prefix, averaged.reshape(batch, -1, dim)], dim=1)
