"""Batches of pictures, clips or filter banks through a loaded backbone."""

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
"""On a CPU small batches are the faster ones: their activations stay in the cache."""

CPU_BATCH_CLIPS, GPU_BATCH_CLIPS = 1, 16
"""Of clips and filter banks, each of which is worth many pictures."""


_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "MPS backend out of memory")
"""How libraries say it whose errors are plain RuntimeErrors."""


class OutputLayout(NamedTuple):
    """Which part of what a network gives is kept: its pooled vector where `cells` is None, else its tokens, their
    `grid` averaged down to `cells`."""

    grid: Grid | None
    cells: tuple[int, ...] | None

    def of(self, encoded: Encoded) -> Tensor:
        if self.cells is None:
            return encoded.pooled
        assert self.grid is not None
        assert encoded.tokens is not None
        return pool_tokens(encoded.tokens, self.grid, self.cells)


class OutputSlot(NamedTuple):
    """Where one item's feature is written to."""

    layout: OutputLayout
    array: NDArray[np.float32]


class _ForwardPass(NamedTuple):
    """One batch that a network has been given: what is kept of it, on its way to main memory, and for whom."""

    kept: dict[OutputLayout, Tensor]
    targets: list[list[OutputSlot]]
    arrived: "torch.cuda.Event | None"


class Batcher:
    """Gathers items from any number of clips into batches of one fixed size.

    The last batch is filled with repeats, so that every forward pass has the same shape and an item's feature does not
    depend on how many others there were. One pass serves all that is wanted of an item.

    On a GPU the next batch is gathered, in pinned memory, while the last is at work: copies there and back wait for
    nothing, and results are written once they have arrived, at the latest when `flush` returns.
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
        """preprocess: how values are normalised. shape, dtype: of one item. size: items in a batch."""
        self._encoder = encoder
        self._preprocess = preprocess
        self._device = device
        self._asynchronous = device.startswith("cuda")
        buffers = 2 if self._asynchronous else 1
        whole = torch.empty(
            (buffers, size, *shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=self._asynchronous
        )
        self._buffers = deque(whole)
        self._most = size
        self._targets: list[list[OutputSlot]] = []
        self._passes: deque[_ForwardPass] = deque()

    def add(self, item: NDArray[np.generic], targets: list[OutputSlot]) -> None:
        buffer = self._buffers[0]
        buffer.numpy()[len(self._targets)] = item
        self._targets.append(targets)
        if len(self._targets) == len(buffer):
            self._start()

    def flush(self) -> None:
        """Encode what has been gathered and write all that is still on its way."""
        if self._targets:
            self._start()
        while self._passes:
            self._finish()

    def _start(self) -> None:
        items = self._buffers[0]
        items[len(self._targets) :] = items[0]
        encoded = self._encode(items)
        layouts = {target.layout for targets in self._targets for target in targets}
        kept = {layout: self._to_host(layout.of(encoded).float()) for layout in layouts}
        arrived = None
        if self._asynchronous:
            arrived = torch.cuda.current_stream(self._device).record_event()
        self._passes.append(_ForwardPass(kept, self._targets, arrived))
        self._targets = []
        self._buffers.rotate()
        if len(self._passes) == len(self._buffers):
            self._finish()  # its buffer is the next to be filled

    def _to_host(self, values: Tensor) -> Tensor:
        if not self._asynchronous:
            return values.cpu()
        return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)

    def _finish(self) -> None:
        done = self._passes.popleft()
        if done.arrived is not None:
            done.arrived.synchronize()
        kept = {layout: values.numpy() for layout, values in done.kept.items()}
        for row, targets in enumerate(done.targets):
            for target in targets:
                target.array[...] = kept[target.layout][row]

    def _encode(self, items: Tensor) -> Encoded:
        """In as many parts as the device's memory asks for: where it is too small for a part, that and all later ones
        are half as large, so that what does not fit is tried once and not with every batch."""
        while True:
            try:
                return _joined([self._encoder(part, self._preprocess) for part in items.split(self._most)])
            except RuntimeError as error:
                if self._most == 1 or not _is_out_of_memory(error):
                    raise
            self._most = (self._most + 1) // 2
            torch.cuda.empty_cache()  # here the error is gone, and with it what its traceback held


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _joined(parts: Sequence[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return Encoded(torch.cat([part.pooled for part in parts]), torch.cat(tokens) if tokens else None)


def pool_tokens(tokens: Tensor, grid: Grid, cells: tuple[int, ...]) -> Tensor:
    """Tokens (B, prefix + cells of the grid, D) with the grid averaged down: (B, prefix + cells, D).

    Each new cell is the mean of so many whole old ones as fit; what is left over at the end of a dimension is left out
    (of AST's 12 x 101, 6 x 50 averages 2 x 2 and leaves the last column out).
    """
    if cells == grid.cells:
        return tokens
    prefix, patches = tokens[:, : grid.prefix], tokens[:, grid.prefix :]
    batch, _, dim = tokens.shape
    steps = [old // new for old, new in zip(grid.cells, cells, strict=True)]
    laid_out = patches.reshape(batch, *grid.cells, dim)
    for axis, (step, new) in enumerate(zip(steps, cells, strict=True), start=1):
        laid_out = laid_out.narrow(axis, 0, step * new).unflatten(axis, (new, step)).mean(dim=axis + 1)
    return torch.cat([prefix, laid_out.reshape(batch, -1, dim)], dim=1)
