"""What is hidden: segments of sound, and tokens at random."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avfuse.features.errors import UsageError
from avfuse.features.inputs.filter_bank import MEL_BANDS, RATE_HZ, filter_banks
from avfuse.stages.fuse.data.audio_masking import (
    AUDIO_GRIDS,
    SEGMENTS,
    AudioGrid,
    audio_grid,
    columns_to_tokens,
    count_unmasked,
    count_valid_frames,
    draw_mask,
    draw_segment_mask,
    masked_columns,
    segment_boundaries,
    stack_boundaries,
    valid_columns,
)

AST, POOLED, LITE = AUDIO_GRIDS
GRIDS = pytest.mark.parametrize("grid", AUDIO_GRIDS, ids=lambda grid: "x".join(map(str, grid.cells)))
SECONDS = (10.24, 8.0, 5.0, 3.0, 2.0, 1.5, 1.0, 0.5)


def events(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones, noise bursts and pauses in turns, of .1 to .6 s."""
    generator = np.random.default_rng(seed)
    samples = np.zeros(0)
    while len(samples) < seconds * RATE_HZ:
        count = round(generator.uniform(0.1, 0.6) * RATE_HZ)
        tone = np.sin(2 * np.pi * generator.uniform(100, 6000) * np.arange(count) / RATE_HZ)
        burst = generator.standard_normal(count)
        samples = np.concatenate([samples, [tone, burst, 0 * tone][generator.integers(3)] * generator.uniform(0.1, 1)])
    samples += 1e-3 * generator.standard_normal(len(samples))
    return samples[: round(seconds * RATE_HZ)].astype(np.float32)


def boundaries_of(sounds: Iterable[np.ndarray]) -> torch.Tensor:
    banks = filter_banks(list(sounds))
    counts = count_valid_frames(torch.from_numpy(banks)).tolist()
    return stack_boundaries([segment_boundaries(bank, count) for bank, count in zip(banks, counts, strict=True)])


def regular(frames: int) -> np.ndarray:
    """Segments of 20 frames."""
    return np.array([*range(0, frames, 20), frames])


def test_the_frames_of_a_clip_are_those_before_the_padding() -> None:
    samples = [round(seconds * RATE_HZ) for seconds in SECONDS]
    banks = torch.from_numpy(filter_banks([np.zeros(count, np.float32) for count in samples]))
    frames = [min(1024, (count - 400) // 160 + 1) for count in samples]
    assert count_valid_frames(banks).tolist() == frames
    assert count_valid_frames(banks.half()).tolist() == frames


def test_segments_begin_where_the_sound_changes() -> None:
    changes = [0.7, 1.3, 2.2, 3.1, 3.9]
    time_s = np.arange(5 * RATE_HZ) / RATE_HZ
    hertz = np.array([300, 2500, 800, 5000, 150, 1200])[np.searchsorted(changes, time_s)]
    sound = np.sin(2 * np.pi * hertz * time_s) + 0.01 * np.random.default_rng(0).standard_normal(len(time_s))
    found = boundaries_of([sound.astype(np.float32)])[0].numpy()
    for change in changes:
        assert np.abs(found - 100 * change).min() <= 3  # a frame hears 2.5 of them


@pytest.mark.parametrize(
    ("frames", "count"),
    [(1024, 50), (400, 50), (399, 49), (98, 12), (48, 6), (16, 2), (15, 1), (8, 1), (7, 1), (1, 1)],
)
def test_a_clip_has_a_segment_for_eight_frames_and_never_more_than_fifty(frames: int, count: int) -> None:
    bank = np.random.default_rng(0).standard_normal((1024, MEL_BANDS))
    assert len(segment_boundaries(bank, frames)) == count + 1


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 1024), st.sampled_from(["noise", "constant", "steps", "ramp", "click"]), st.integers(0, 99))
def test_boundaries_cover_the_clip(frames: int, kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    levels = {
        "noise": generator.standard_normal(1024),
        "constant": np.full(1024, 0.3),
        "steps": np.repeat(generator.standard_normal(128), 8),
        "ramp": np.linspace(-1, 1, 1024),
        "click": np.eye(1024)[generator.integers(1024)],
    }[kind]
    bank = (levels[:, None] * generator.standard_normal(MEL_BANDS)).astype(np.float32)
    found = segment_boundaries(bank, frames)
    count = max(1, min(50, frames // 8))
    assert found.dtype == np.int64
    assert (found[0], found[-1], len(found)) == (0, frames, count + 1)
    assert np.diff(found).min() >= min(4, frames // (4 * count), frames)


def test_silence_is_cut_evenly() -> None:
    lengths = boundaries_of([np.zeros(10 * RATE_HZ, np.float32)])[0].diff()
    assert lengths.min() >= 15
    assert lengths.max() <= 32


def test_padding_does_not_move_a_boundary() -> None:
    bank = filter_banks([events(4.0)])[0]
    louder = bank.copy()
    louder[300:] = 5
    np.testing.assert_array_equal(segment_boundaries(bank, 300), segment_boundaries(louder, 300))


def test_half_precision_cuts_where_single_precision_does() -> None:
    bank = filter_banks([events(10.24)])[0]
    moved = np.abs(segment_boundaries(bank, 1022) - segment_boundaries(bank.astype(np.float16), 1022))
    assert np.median(moved) == 0


def test_a_clip_without_frames_has_no_segment() -> None:
    assert segment_boundaries(np.zeros((1024, MEL_BANDS)), 0).tolist() == [0]


@pytest.mark.parametrize("frames", [1000, 800, 300, 100, 98, 48, 8])
def test_four_in_a_hundred_segments_are_hidden_and_at_least_one(frames: int) -> None:
    bank = np.random.default_rng(0).standard_normal((1024, MEL_BANDS))
    boundaries = stack_boundaries([segment_boundaries(bank, frames)] * 200)
    count = min(50, frames // 8)
    masked = draw_segment_mask(boundaries, torch.Generator().manual_seed(0))
    assert masked.shape == (200, SEGMENTS)
    assert (masked.sum(dim=1) == max(1, round(0.04 * count))).all()
    assert not masked[:, count:].any()


def test_every_segment_is_hidden_equally_often() -> None:
    boundaries = stack_boundaries([regular(1000)] * 20_000)
    share = draw_segment_mask(boundaries, torch.Generator().manual_seed(0)).float().mean(dim=0)
    torch.testing.assert_close(share, torch.full((50,), 0.04), atol=0.006, rtol=0)


@GRIDS
@pytest.mark.parametrize("seconds", SECONDS)
def test_every_draw_hides_a_column_and_never_padding(grid: AudioGrid, seconds: float) -> None:
    sounds = [*(events(seconds, seed) for seed in range(6)), np.zeros(round(seconds * RATE_HZ), np.float32)]
    boundaries = boundaries_of(sounds).repeat(100, 1)
    masked = draw_segment_mask(boundaries, torch.Generator().manual_seed(0))
    columns = masked_columns(boundaries, masked, grid)
    assert columns.shape == (700, grid.columns)
    assert columns.any(dim=1).all()
    assert not (columns & ~valid_columns(boundaries[:, -1], grid)).any()
    assert count_unmasked(columns, torch.ones(700, dtype=torch.bool)) == 0


@GRIDS
@settings(max_examples=100, deadline=None)
@given(frames=st.integers(0, 1024), seed=st.integers(0, 999))
def test_hidden_columns_are_those_with_their_middle_in_a_hidden_segment(
    grid: AudioGrid, frames: int, seed: int
) -> None:
    """Against the definition, column by column."""
    bank = np.random.default_rng(seed).standard_normal((1024, MEL_BANDS))
    cut = segment_boundaries(bank, frames)
    boundaries = stack_boundaries([cut])
    masked = draw_segment_mask(boundaries, torch.Generator().manual_seed(seed))
    columns = masked_columns(boundaries, masked, grid)[0]

    middles = np.arange(grid.columns) * grid.stride + grid.patch / 2
    middles = middles[middles < frames]
    expected = set()
    for segment in masked[0].nonzero().flatten().tolist():
        begin, end = cut[segment], cut[segment + 1]
        inside = np.flatnonzero((begin <= middles) & (middles < end)).tolist()
        away = np.maximum(begin - middles, middles - end)
        if not inside and len(middles):
            inside = [int(away.argmin())]
        expected |= set(inside)
    assert set(columns.nonzero().flatten().tolist()) == expected


@GRIDS
def test_columns_are_where_the_backbones_tokens_are(grid: AudioGrid) -> None:
    assert grid.centres(torch.device("cpu"))[0] == grid.patch / 2
    assert (grid.columns - 1) * grid.stride + grid.patch <= 1024
    assert (grid.rows - 1) * grid.stride + grid.patch <= MEL_BANDS


def test_pooled_tokens_are_in_the_middle_of_those_they_are_the_mean_of() -> None:
    device = torch.device("cpu")
    pairs = AST.centres(device)[:100].reshape(50, 2).mean(dim=1)
    torch.testing.assert_close(POOLED.centres(device), pairs)


def test_a_clip_too_short_for_a_column_hides_nothing_and_is_counted() -> None:
    bank = np.zeros((1024, MEL_BANDS))
    boundaries = stack_boundaries([segment_boundaries(bank, frames) for frames in (0, 8, 9, 1024)])
    masked = draw_segment_mask(boundaries, torch.Generator().manual_seed(0))
    columns = masked_columns(boundaries, masked, AST)
    assert columns.any(dim=1).tolist() == [False, False, True, True]
    assert count_unmasked(columns, torch.tensor([False, True, True, True])) == 1


def test_a_hidden_column_is_hidden_over_all_bins() -> None:
    columns = torch.zeros(2, 101, dtype=torch.bool)
    columns[0, 7] = True
    tokens = columns_to_tokens(columns, AST).unflatten(1, AST.cells)
    assert tokens[0, :, 7].all()
    assert tokens.sum() == 12


def test_random_masks_hide_four_in_a_hundred_valid_tokens_and_at_least_one() -> None:
    counts = torch.tensor([1212, 300, 100, 13, 12, 1, 0])
    valid = torch.arange(1212) < counts[:, None]
    masked = draw_mask(valid, torch.Generator().manual_seed(0))
    assert masked.sum(dim=1).tolist() == [48, 12, 4, 1, 1, 1, 0]
    assert not (masked & ~valid).any()


def test_random_masks_hide_every_token_equally_often() -> None:
    valid = torch.ones(20_000, 25, dtype=torch.bool)
    share = draw_mask(valid, torch.Generator().manual_seed(0)).float().mean(dim=0)
    torch.testing.assert_close(share, torch.full((25,), 0.04), atol=0.006, rtol=0)


def test_what_is_drawn_depends_on_the_generator_alone() -> None:
    boundaries = stack_boundaries([regular(1000)] * 8)
    torch.manual_seed(1)
    first = draw_segment_mask(boundaries, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    torch.testing.assert_close(draw_segment_mask(boundaries, torch.Generator().manual_seed(5)), first)
    assert not torch.equal(draw_segment_mask(boundaries, torch.Generator().manual_seed(6)), first)


def test_a_grid_nobody_knows_is_refused_with_those_known() -> None:
    assert audio_grid((6, 50)) is POOLED
    with pytest.raises(UsageError, match="7x7: choose features with one of 12x101, 6x50, 4x32"):
        audio_grid((7, 7))
