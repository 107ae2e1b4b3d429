"""Batches: what goes in comes out at its place, whatever the device can hold."""

import numpy as np
import pytest
import torch

from avfuse.features.backbones import Encoded, Grid
from avfuse.features.spec import Preprocess
from avfuse.stages.extract.encode import Batcher, OutputLayout, OutputSlot

POOLED = OutputLayout(None, None)
TOKENS = OutputLayout(Grid((2,)), (2,))


class Network:
    """Gives each item's mean; runs out of memory with more than so many items at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.sizes: list[int] = []

    def __call__(self, items: torch.Tensor, preprocess: Preprocess | None) -> Encoded:
        self.sizes.append(len(items))
        if len(items) > self.most:
            raise torch.OutOfMemoryError("no more")
        pooled = items.float().mean(dim=1, keepdim=True)
        return Encoded(pooled, torch.stack([pooled, -pooled], dim=1))


def encoded(network: Network, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    batcher = Batcher(network, None, (3,), np.float32, size, "cpu")
    pooled, tokens = np.full((count, 1), np.nan, np.float32), np.full((count, 2, 1), np.nan, np.float32)
    for number in range(count):
        item = np.full(3, number, np.float32)
        batcher.add(item, [OutputSlot(POOLED, pooled[number]), OutputSlot(TOKENS, tokens[number])])
    batcher.flush()
    return pooled, tokens


@pytest.mark.parametrize("most", [8, 5, 3, 1])
def test_a_batch_that_is_too_large_is_halved_and_nothing_is_lost(most: int) -> None:
    network = Network(most)
    pooled, tokens = encoded(network, count=13, size=8)
    assert pooled[:, 0].tolist() == list(range(13))
    assert tokens[:, 1, 0].tolist() == [-number for number in range(13)]
    assert min(network.sizes) <= most


def test_what_does_not_fit_is_tried_once() -> None:
    network = Network(2)
    encoded(network, count=16, size=8)
    assert network.sizes == [8, 4, *[2] * 8]


@pytest.mark.parametrize("message", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "another bug"])
def test_libraries_say_in_their_own_words_that_memory_ran_out(message: str) -> None:
    class Refusing(Network):
        def __call__(self, items: torch.Tensor, preprocess: Preprocess | None) -> Encoded:
            if len(items) > self.most:
                raise RuntimeError(message)
            return super().__call__(items, preprocess)

    if "bug" in message:
        with pytest.raises(RuntimeError, match=message):
            encoded(Refusing(2), count=8, size=8)
    else:
        assert encoded(Refusing(2), count=8, size=8)[0][:, 0].tolist() == list(range(8))


def test_every_pass_has_the_same_size() -> None:
    network = Network(8)
    encoded(network, count=13, size=8)
    assert network.sizes == [8, 8]


def test_a_single_item_that_is_too_large_ends_the_run() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        encoded(Network(0), count=1, size=1)
