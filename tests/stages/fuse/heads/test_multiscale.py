"""The Multiscale Audio Transformer: its size, its grids, and its attention against definitions."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.heads.multiscale import (
    MAT,
    ConvolutionalPool,
    MATLite,
    PoolingAttention,
    RelativePositions,
    fitting_stride,
    pooled_grid,
)

ODD_GRIDS = [(1, 1), (1, 9), (2, 2), (3, 5), (7, 13), (15, 253)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def mat() -> Iterator[MAT]:
    torch.manual_seed(0)
    return MAT().eval()


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(module: nn.Module, inputs: Tensor) -> float:
    """Of one forward pass: matrix products, attention's among them, and convolutions."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(inputs)
    return counter.get_total_flops() / 2


def cells(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]


# Size


def test_mat_is_as_large_as_the_published_ratios_say(mat: MAT) -> None:
    assert parameters(mat) == pytest.approx(50.8e6, rel=0.03)
    assert multiply_adds(mat, torch.randn(1, 1024, 128)) == pytest.approx(24.6e9, rel=0.03)


def test_mat_against_ast(mat: MAT) -> None:
    """Published: 42 % fewer parameters, a fifth of the multiply-adds."""
    assert parameters(mat) / 86.2e6 == pytest.approx(1 - 0.42, rel=0.03)
    assert multiply_adds(mat, torch.randn(1, 1024, 128)) / 130.5e9 < 1 / 5


@pytest.mark.parametrize(
    ("dim", "grid", "millions", "giga"),
    [(768, (12, 101), 8.757, 1.394), (768, (6, 50), 8.742, 0.390), (1280, (4, 32), 8.835, 0.171)],
)
def test_mat_lite_is_as_large_as_stated(dim: int, grid: tuple[int, int], millions: float, giga: float) -> None:
    lite = MATLite(dim, grid)
    assert parameters(lite) == pytest.approx(millions * 1e6, rel=0.001)
    assert multiply_adds(lite, torch.randn(1, cells(grid), dim)) == pytest.approx(giga * 1e9, rel=0.003)


@pytest.mark.parametrize(("pooling", "giga"), [("1d", 2.70), ("none", 14.68)])
def test_less_pooling_costs_more(pooling: str, giga: float) -> None:
    lite = MATLite(pooling=pooling)
    assert multiply_adds(lite, torch.randn(1, 1212, 768)) == pytest.approx(giga * 1e9, rel=0.003)


# Grids


def test_mats_grids(mat: MAT) -> None:
    assert mat.grids == [(15, 253), (15, 253), (15, 127), (8, 64), (4, 32)]
    keys = [
        block.attend.positions.of_frequency.shape[1] * block.attend.positions.of_time.shape[1] for block in mat.blocks
    ]
    assert keys == [256, 256, 4 * 127, 256, 256, 8 * 127, *[256] * 15, 8 * 64, 128, 128]


@pytest.mark.parametrize(
    ("grid", "pooling", "expected"),
    [
        ((12, 101), "2d", [(12, 101), (12, 51), (6, 26), (3, 13)]),
        ((12, 101), "1d", [(12, 101), (12, 51), (12, 26), (12, 13)]),
        ((12, 101), "none", [(12, 101)] * 4),
        ((6, 50), "2d", [(6, 50), (6, 25), (3, 13), (3, 7)]),
        ((4, 32), "2d", [(4, 32), (4, 16), (2, 8), (2, 4)]),
        ((4, 32), "1d", [(4, 32), (4, 16), (4, 8), (4, 4)]),
        ((1, 7), "2d", [(1, 7), (1, 4), (1, 2), (1, 2)]),
    ],
)
def test_mat_lites_grids(grid: tuple[int, int], pooling: str, expected: list[tuple[int, int]]) -> None:
    lite = MATLite(16, grid, pooling).eval()
    lengths: list[int] = []
    for block in lite.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: lengths.append(output.shape[1]))
    tokens, pooled = lite(torch.randn(2, cells(grid), 16))
    assert lite.grids == expected
    assert lengths == [cells(grid) for grid in expected[1:]]
    assert tokens.shape == (2, cells(lite.grid), lite.dim)
    torch.testing.assert_close(pooled, tokens.mean(dim=1))


@pytest.mark.parametrize("grid", ODD_GRIDS)
@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 2), (4, 4)])
def test_strides_fit_any_grid(grid: tuple[int, int], stride: tuple[int, int]) -> None:
    fitted = fitting_stride(stride, grid)
    left = pooled_grid(grid, fitted)
    for axis in range(2):
        assert 1 <= fitted[axis] <= stride[axis]
        assert left[axis] >= min(2, grid[axis])
    assert ConvolutionalPool(4, grid, (3, 3), fitted)(torch.randn(1, 1, cells(grid), 4)).shape[2] == cells(left)


@pytest.mark.parametrize("pooling", ["2d", "1d", "none"])
@pytest.mark.parametrize("grid", ODD_GRIDS[:-1])
def test_odd_grids(grid: tuple[int, int], pooling: str) -> None:
    assert MATLite(8, grid, pooling)(torch.randn(3, cells(grid), 8)).tokens.isfinite().all()


def test_one_dimensional_pooling_keeps_bands_apart_outside_attention() -> None:
    """Its kernels lie along time: a band's pooled numbers depend on no other band."""
    pool = ConvolutionalPool(4, (5, 8), (1, 3), (1, 2))
    tokens = torch.randn(1, 1, 5, 8, 4)
    louder = tokens.clone()
    louder[:, :, 2] += 1
    before, after = (pool(x.flatten(2, 3)).unflatten(2, (5, 4)) for x in (tokens, louder))
    moved = (before != after).flatten(3).any(dim=3)[0, 0]
    assert moved.tolist() == [False, False, True, False, False]


def test_unknown_pooling_is_named() -> None:
    with pytest.raises(UsageError, match=r"pooling is '3d': choose from 2d, 1d, none"):
        MATLite(pooling="3d")  # type: ignore[arg-type]


# Attention


@pytest.mark.parametrize(
    ("grid", "query_stride", "key_stride"),
    [((3, 4), (1, 1), (1, 1)), ((5, 7), (1, 2), (4, 2)), ((5, 9), (2, 2), (2, 1)), ((6, 5), (2, 1), (3, 2))],
)
def test_relative_positions_against_loops(
    grid: tuple[int, int], query_stride: tuple[int, int], key_stride: tuple[int, int]
) -> None:
    positions = RelativePositions(6, grid, query_stride, key_stride)
    (query_rows, query_columns), (key_rows, key_columns) = (
        [range(0, grid[axis], stride[axis]) for axis in range(2)] for stride in (query_stride, key_stride)
    )
    queries = torch.randn(2, 3, len(query_rows) * len(query_columns), 6)
    found = positions(queries)
    far = sorted({f - g for f in query_rows for g in key_rows})
    late = sorted({t - u for t in query_columns for u in key_columns})
    by_frequency = dict(zip(far, positions.frequency, strict=True))
    by_time = dict(zip(late, positions.time, strict=True))
    for i, (f, t) in enumerate((f, t) for f in query_rows for t in query_columns):
        for j, (g, u) in enumerate((g, u) for g in key_rows for u in key_columns):
            expected = queries[:, :, i] @ (by_frequency[f - g] + by_time[t - u]) / 6**0.5
            torch.testing.assert_close(found[:, :, i, j], expected)


def test_without_pooling_and_positions_it_is_plain_attention_plus_the_queries() -> None:
    attention = PoolingAttention(12, 24, 2, (3, 5), (1, 1), (1, 1), (1, 1))
    nn.init.zeros_(attention.positions.frequency)
    nn.init.zeros_(attention.positions.time)
    x = torch.randn(4, 15, 12)
    q, k, v = (part.reshape(4, 15, 2, 12).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=2))
    mixed = (q @ k.transpose(2, 3) / 12**0.5).softmax(dim=3) @ v
    expected = attention.project((q + mixed).transpose(1, 2).reshape(4, 15, 24))
    torch.testing.assert_close(attention(x), expected)


def test_pooled_queries_are_added_to_what_they_gather() -> None:
    """With values of zero nothing but the queries is left."""
    attention = PoolingAttention(8, 16, 2, (4, 6), (3, 3), (2, 2), (2, 2))
    nn.init.zeros_(attention.pools[2].norm.weight)
    nn.init.zeros_(attention.pools[2].norm.bias)
    x = torch.randn(2, 24, 8)
    queries = attention.qkv(x)[..., :16].reshape(2, 24, 2, 8).transpose(1, 2)
    expected = attention.project(attention.pools[0](queries).transpose(1, 2).reshape(2, 6, 16))
    torch.testing.assert_close(attention(x), expected)


def test_the_pool_is_one_kernel_for_all_heads() -> None:
    pool = ConvolutionalPool(4, (4, 6), (3, 3), (2, 2))
    x = torch.randn(2, 3, 24, 4)
    planes = x.transpose(2, 3).reshape(6, 4, 4, 6)
    expected = pool.norm(pool.convolve(planes).flatten(2).transpose(1, 2)).reshape(2, 3, 6, 4)
    torch.testing.assert_close(pool(x), expected)


# Learning


def gradients_reach_all_of(network: nn.Module, inputs: Tensor) -> None:
    """Each row of the tables of positions too: none is there for a distance that does not occur."""
    tokens, pooled = network(inputs)
    (tokens[..., 0].square().sum() + pooled[..., 1:].pow(3).sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        by_row = parameter.grad.abs().sum(dim=1) if "positions" in name else parameter.grad.abs().sum()
        assert (by_row > 0).all(), name


@pytest.mark.slow
def test_all_of_mat_is_trained() -> None:
    gradients_reach_all_of(MAT(bands=40, frames=60, drop_path=0.0), torch.randn(4, 60, 40))


@pytest.mark.parametrize("pooling", ["2d", "1d", "none"])
def test_all_of_mat_lite_is_trained(pooling: str) -> None:
    gradients_reach_all_of(MATLite(16, (6, 9), pooling, drop_path=0.0), torch.randn(4, 54, 16))


def test_the_same_seed_gives_the_same_network() -> None:
    tokens = torch.randn(2, 128, 16)
    outcomes = []
    for _ in range(2):
        torch.manual_seed(7)
        lite = MATLite(16, (4, 32))
        loss = lite(tokens).pooled.pow(3).sum()
        loss.backward()
        outcomes.append((loss.detach(), lite.narrow.weight.grad))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    lite = MATLite(16, (4, 32)).eval()
    tokens = torch.randn(3, 128, 16)
    torch.testing.assert_close(lite(tokens[:1]).tokens, lite(tokens).tokens[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    lite = MATLite(16, (6, 50)).eval()
    tokens = torch.randn(2, 300, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        half = lite(tokens).pooled.float()
    torch.testing.assert_close(half, lite(tokens).pooled, rtol=0.05, atol=0.05)


def glides(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Filter banks (n, 32 frames, 32 bands) of tones in noise that rise or fall through all bands, from anywhere; and 1
    where they rise. How often a band sounds at a time is the same for both."""
    rising = torch.arange(count) % 2
    start = torch.randint(32, (count, 1), generator=generator)
    tone = (start + (2 * rising[:, None] - 1) * torch.arange(32)) % 32
    banks = nn.functional.one_hot(tone, 32).float()
    return 3 * banks + 0.3 * torch.randn(banks.shape, generator=generator), rising


@pytest.mark.slow
def test_mat_lite_learns_textures_that_only_order_tells_apart() -> None:
    """A token is the mean of 4 bands and 4 frames: as loud whichever way the tone goes through it."""
    banks, rising = glides(256, torch.Generator().manual_seed(0))
    tokens = nn.functional.avg_pool2d(banks.transpose(1, 2)[:, None], 4).flatten(2).transpose(1, 2)
    lite = MATLite(1, (8, 8))
    classifier = nn.Linear(lite.dim, 2)
    optimiser = torch.optim.AdamW([*lite.parameters(), *classifier.parameters()], lr=1e-4)
    for batch in torch.arange(128).split(16) * 3:
        loss = nn.functional.cross_entropy(classifier(lite(tokens[batch]).pooled), rising[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        right = classifier(lite.eval()(tokens[128:]).pooled).argmax(dim=1) == rising[128:]
    assert right.float().mean() > 0.9
