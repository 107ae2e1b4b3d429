"""A token stands where the grid of its backbone says."""

import numpy as np
import pytest
import torch
from networks import batch, large_ones_are_slow, seen

from avfuse.features import backbones
from avfuse.features.backbones import Grid
from avfuse.features.backbones.loading import load
from avfuse.features.backbones.weights import RANDOM, find_weights
from avfuse.stages.extract.encode import pool_tokens


@torch.inference_mode()
def moved_most(name: str, items: torch.Tensor, changed: torch.Tensor) -> tuple[int, ...]:
    """The cell of the grid whose token differs most between two inputs."""
    backbone = backbones.get_backbone(name)
    network = load(backbone, RANDOM, "cpu")
    before, after = (network(batch, backbone.preprocess).tokens for batch in (items, changed))
    assert before is not None
    assert after is not None
    assert backbone.grid is not None
    grid = backbone.grid(seen(backbone))
    change = (after - before).norm(dim=-1)[0, grid.prefix :].reshape(grid.cells)
    return tuple(int(cell) for cell in np.unravel_index(int(change.argmax()), grid.cells))


# A convolution sees its neighbours.
@pytest.mark.parametrize(
    ("name", "size", "spread"), large_ones_are_slow(("vit", 16, 0), ("lite", 32, 1), ("tsn", 32, 1))
)
def test_an_impulse_in_a_patch_moves_that_patchs_token(name: str, size: int, spread: int) -> None:
    pixels = batch(backbones.get_backbone(name), 1)
    changed = pixels.clone()
    changed[:, 4 * size : 5 * size, 2 * size : 3 * size] ^= 255
    row, column = moved_most(name, pixels, changed)
    assert abs(row - 4) <= spread
    assert abs(column - 2) <= spread


@pytest.mark.slow
def test_an_impulse_in_time_and_frequency_moves_asts_token() -> None:
    banks = torch.zeros(1, 1024, 128)
    changed = banks.clone()
    changed[:, 406:410, 76:80] = 5.0  # patches are 16 wide and 10 apart: only the one of band 7 and time 40 has this
    assert moved_most("ast", banks, changed) == (7, 40)


@pytest.mark.slow
def test_an_impulse_in_one_frame_moves_timesformers_token_of_it() -> None:
    pixels = torch.full((1, 8, 224, 224, 3), 128, dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, 5, 48:64, 160:176] = 255
    assert moved_most("timesformer", pixels, changed) == (3, 10, 5)  # row, column, frame


@pytest.mark.slow
def test_an_impulse_in_two_frames_moves_swins_token_of_them() -> None:
    pixels = torch.full((1, 16, 224, 224, 3), 128, dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, 6:8, 64:96, 160:192] = 255
    assert moved_most("swin3d", pixels, changed) == (3, 2, 5)  # pair of frames, row, column


def test_tokens_are_averaged_cell_by_cell() -> None:
    grid = Grid((4, 5), prefix=1)
    tokens = torch.arange(21.0).reshape(1, 21, 1)
    assert pool_tokens(tokens, grid, (4, 5)) is tokens
    pooled = pool_tokens(tokens, grid, (2, 2))[0, :, 0].tolist()
    assert pooled == [
        0,
        np.mean([1, 2, 6, 7]),
        np.mean([3, 4, 8, 9]),
        np.mean([11, 12, 16, 17]),
        np.mean([13, 14, 18, 19]),
    ]


def test_an_impulse_in_time_and_frequency_moves_lites_token() -> None:
    """A filter bank is a picture of bands by time: 4 x 32 cells of 32 bands by 32 frames."""
    banks = torch.zeros(1, 1024, 128)
    changed = banks.clone()
    changed[:, 20 * 32 : 21 * 32, 2 * 32 : 3 * 32] = 2.0
    network = load(backbones.get_backbone("lite"), find_weights(backbones.get_backbone("lite").checkpoint), "cpu")
    tokens = [network(bank, None).tokens for bank in (banks, changed)]
    assert tokens[0] is not None
    assert tokens[0].shape == (1, 128, 1280)
    change = (tokens[1] - tokens[0]).norm(dim=-1).reshape(4, 32)
    row, column = divmod(int(change.argmax()), 32)
    assert max(abs(row - 2), abs(column - 20)) <= 1  # a convolution sees its neighbours
