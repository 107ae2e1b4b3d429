"""Decoders' shapes, which pixels and tokens count, and that hidden sound is learned."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.features.inputs.filter_bank import RATE_HZ, filter_banks
from avfuse.stages.fuse.data.audio_masking import (
    AUDIO_GRIDS,
    AudioGrid,
    columns_to_tokens,
    draw_segment_mask,
    masked_columns,
    segment_boundaries,
    stack_boundaries,
)
from avfuse.stages.fuse.losses.reconstruction import (
    AudioDecoder,
    VideoDecoder,
    layer_normalised,
    masked_mse,
    masked_pixels,
)

AST, POOLED, LITE = AUDIO_GRIDS
GRIDS = pytest.mark.parametrize("grid", AUDIO_GRIDS, ids=lambda grid: "x".join(map(str, grid.cells)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens_of(grid: AudioGrid, *cells: tuple[int, int]) -> Tensor:
    """A mask of one clip that hides these cells."""
    mask = torch.zeros(1, *grid.cells, dtype=torch.bool)
    for cell in cells:
        mask[(0, *cell)] = True
    return mask.flatten(1)


@GRIDS
def test_tokens_become_a_whole_filter_bank(grid: AudioGrid) -> None:
    decoder = AudioDecoder(8, grid.cells)
    assert decoder(torch.randn(3, grid.rows * grid.columns, 8)).shape == (3, 128, 1024)


@pytest.mark.parametrize(
    ("grid", "kernel", "stride", "output_padding"),
    [(AST, (16, 16), (10, 10), (2, 8)), (POOLED, (28, 32), (20, 20), (0, 12)), (LITE, (32, 32), (32, 32), (0, 0))],
)
def test_one_transposed_convolution_for_each_grid(
    grid: AudioGrid, kernel: tuple[int, int], stride: tuple[int, int], output_padding: tuple[int, int]
) -> None:
    layer = AudioDecoder(8, grid.cells).spread
    assert (layer.kernel_size, layer.stride, layer.output_padding) == (kernel, stride, output_padding)


def test_a_grid_nobody_knows_is_refused_with_those_known() -> None:
    with pytest.raises(UsageError, match="14x14: choose features with one of 12x101, 6x50, 4x32"):
        AudioDecoder(8, (14, 14))


@GRIDS
def test_a_token_is_spread_over_its_own_pixels(grid: AudioGrid) -> None:
    """Row by row, low bins first: what changes with a token are the pixels that `masked_pixels` says it is of; for the
    means of four the kernel reaches a little further."""
    decoder = AudioDecoder(8, grid.cells)
    row, column = grid.rows - 2, 3
    tokens = torch.zeros(1, grid.rows * grid.columns, 8)
    moved = tokens.clone()
    moved[0, row * grid.columns + column] = 1
    with torch.no_grad():
        changed = decoder(moved) != decoder(tokens)
    pixels = masked_pixels(tokens_of(grid, (row, column)), grid, torch.tensor([1024]))
    assert changed[pixels].all()
    if grid is not POOLED:
        torch.testing.assert_close(changed, pixels)


def test_the_pixels_of_a_token_are_its_patch() -> None:
    pixels = masked_pixels(tokens_of(AST, (2, 5), (2, 6)), AST, torch.tensor([1024]))
    expected = torch.zeros(1, 128, 1024, dtype=torch.bool)
    expected[0, 20:36, 50:76] = True
    torch.testing.assert_close(pixels, expected)


def test_a_pooled_token_has_the_pixels_of_those_it_is_the_mean_of() -> None:
    four = tokens_of(AST, (4, 10), (4, 11), (5, 10), (5, 11))
    frames = torch.tensor([1024])
    torch.testing.assert_close(
        masked_pixels(tokens_of(POOLED, (2, 5)), POOLED, frames), masked_pixels(four, AST, frames)
    )


@pytest.mark.parametrize(("grid", "bins", "frames"), [(AST, 126, 1016), (POOLED, 126, 1006), (LITE, 128, 1024)])
def test_all_tokens_together_have_all_pixels_that_any_saw(grid: AudioGrid, bins: int, frames: int) -> None:
    everything = torch.ones(1, grid.rows * grid.columns, dtype=torch.bool)
    pixels = masked_pixels(everything, grid, torch.tensor([1024]))
    assert pixels[0, :bins, :frames].all()
    assert pixels.sum() == bins * frames


def test_padding_has_no_pixels() -> None:
    column = tokens_of(AST, *((row, 9) for row in range(12))).expand(3, -1)
    pixels = masked_pixels(column, AST, torch.tensor([1024, 99, 50]))
    assert pixels.any(dim=1).sum(dim=1).tolist() == [16, 9, 0]


def test_only_masked_parts_of_the_target_count() -> None:
    given, target = torch.randn(2, 3, 128, 1024, generator=generator())
    mask = torch.rand(3, 128, 1024, generator=generator(1)) < 0.1
    before = masked_mse(given, target, mask)
    torch.testing.assert_close(masked_mse(given, target.masked_fill(~mask, torch.nan), mask), before)
    assert masked_mse(given, target.masked_fill(mask, 9.0), mask) > before


def test_the_error_is_the_mean_square_of_a_clip_and_then_of_clips() -> None:
    given, target = torch.zeros(3, 4, 2), torch.zeros(3, 4, 2)
    target[0, 0], target[1] = 1.0, 3.0
    mask = torch.tensor([[True, True, False, False], [True, True, True, True], [False, False, False, False]])
    assert masked_mse(given, target, mask) == pytest.approx((0.5 + 9) / 2)


def test_a_clip_with_nothing_masked_adds_nothing() -> None:
    given, target = torch.randn(2, 4, 5, 6, generator=generator())
    mask = torch.rand(4, 5, generator=generator(1)) < 0.5
    mask[2] = False
    target[2] = torch.nan
    rest = torch.tensor([0, 1, 3])
    given.requires_grad_()
    loss = masked_mse(given, target, mask)
    torch.testing.assert_close(loss, masked_mse(given[rest], target[rest], mask[rest]))
    loss.backward()
    assert given.grad is not None
    assert given.grad.isfinite().all()
    assert (given.grad[2] == 0).all()


def test_nothing_masked_at_all_is_no_loss() -> None:
    given = torch.randn(2, 5, 6, requires_grad=True)
    loss = masked_mse(given, torch.full((2, 5, 6), torch.nan), torch.zeros(2, 5, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    torch.testing.assert_close(given.grad, torch.zeros_like(given))


def test_video_tokens_are_aimed_at_layer_normalised() -> None:
    target = layer_normalised(5 + 3 * torch.randn(2, 7, 64, generator=generator()))
    torch.testing.assert_close(target.mean(dim=2), torch.zeros(2, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(dim=2, correction=0), torch.ones(2, 7), atol=1e-3, rtol=0)
    assert VideoDecoder(8, 64)(torch.randn(2, 7, 8)).shape == target.shape


@GRIDS
def test_gradients_of_audio_are_those_of_finite_differences(grid: AudioGrid) -> None:
    decoder = AudioDecoder(2, grid.cells).double()
    tokens = torch.randn(2, grid.rows * grid.columns, 2, generator=generator(), dtype=torch.float64)
    target = torch.randn(2, 128, 1024, generator=generator(1), dtype=torch.float64)
    columns = torch.arange(grid.columns) % 5 == torch.tensor([[0], [1]])
    pixels = masked_pixels(columns_to_tokens(columns, grid), grid, torch.tensor([1024, 300]))
    weights = {name: parameter.detach() for name, parameter in decoder.named_parameters()}

    def of_inputs(tokens: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(weights, values, strict=True))
        return masked_mse(torch.func.functional_call(decoder, named, (tokens,)), target, pixels)

    inputs = [each.requires_grad_() for each in (tokens, *weights.values())]
    assert torch.autograd.gradcheck(of_inputs, inputs, fast_mode=True)  # thousands: along a random direction


def test_gradients_of_video_are_those_of_finite_differences() -> None:
    decoder = VideoDecoder(3, 6).double()
    tokens = torch.randn(2, 4, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    target = layer_normalised(torch.randn(2, 4, 6, generator=generator(1), dtype=torch.float64))
    mask = torch.tensor([[True, False, True, False], [False, False, True, False]])
    assert torch.autograd.gradcheck(lambda given: masked_mse(decoder(given), target, mask), tokens)


class Filler(nn.Module):
    """Hidden tokens from the mean of those seen in each row of bins: enough where a clip sounds alike throughout."""

    def __init__(self, grid: AudioGrid, seen_dim: int, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.fill = nn.Sequential(nn.Linear(grid.rows * seen_dim, dim), nn.GELU(), nn.Linear(dim, grid.rows * dim))
        self.decode = AudioDecoder(dim, grid.cells)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        laid_out = tokens.masked_fill(hidden[:, :, None], 0).unflatten(1, self.grid.cells)
        seen = laid_out.sum(dim=2) / (~hidden).unflatten(1, self.grid.cells).sum(dim=2)[:, :, None]
        filled = self.fill(seen.flatten(1)).unflatten(1, (self.grid.rows, -1))
        return self.decode(filled[:, :, None].expand(-1, -1, self.grid.columns, -1).flatten(1, 2))


def steady_tones(clips: int) -> Tensor:
    """Filter banks (clips, 128, 1024) of 10.24 s each, a chord and a little noise in each."""
    chance = np.random.default_rng(0)
    time_s = np.arange(round(10.24 * RATE_HZ)) / RATE_HZ
    sounds = []
    for _ in range(clips):
        chord = sum(np.sin(2 * np.pi * hertz * time_s) for hertz in chance.choice([200, 450, 1000, 2200, 4800], 2))
        sounds.append((0.3 * chord + 0.01 * chance.standard_normal(len(time_s))).astype(np.float32))
    return torch.from_numpy(filter_banks(sounds)).transpose(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [POOLED, LITE], ids=lambda grid: "x".join(map(str, grid.cells)))
def test_training_fills_in_sound_better_than_the_mean(grid: AudioGrid) -> None:
    """Held-out clips, error where segments are hidden, against the mean of the training clips' banks at each pixel."""
    torch.manual_seed(0)
    banks = steady_tones(48)
    boundaries = stack_boundaries([segment_boundaries(bank.T.numpy(), 1022) for bank in banks])
    patches = nn.Unfold(grid.patch, stride=grid.stride)(banks[:, None]).transpose(1, 2)
    tokens = patches @ torch.randn(grid.patch**2, 16) / grid.patch
    model = Filler(grid, 16, 32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def error(clips: slice, seed: int, given: Tensor | None = None) -> Tensor:
        columns = masked_columns(boundaries[clips], draw_segment_mask(boundaries[clips], generator(seed)), grid)
        hidden = columns_to_tokens(columns, grid)
        pixels = masked_pixels(hidden, grid, boundaries[clips, -1])
        rebuilt = model(tokens[clips], hidden) if given is None else given.expand(len(pixels), -1, -1)
        return masked_mse(rebuilt, banks[clips], pixels)

    for step in range(40):
        optimiser.zero_grad()
        error(slice(16 * (step % 2), 16 * (step % 2) + 16), step).backward()
        optimiser.step()
    with torch.no_grad():
        of_mean = error(slice(32, 48), seed=1000, given=banks[:32].mean(dim=0, keepdim=True))
        of_model = error(slice(32, 48), seed=1000)
    assert of_model < 0.5 * of_mean
