"""The Multiscale Audio Transformer, for MMT: pooling attention over a grid of frequency and time.

Zhu, "Efficient Multiscale Multimodal Bottleneck Transformer for Audio-Video Classification" (arXiv 2401.04023); Zhu and
Omar, "Multiscale Audio Spectrogram Transformer" (arXiv 2303.10757). Blocks are MViTv2's: Li et al., arXiv 2112.01526.
Grids, kernels and strides are (frequency, time) throughout, and cell (f, t) is token f * T + t.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.features.inputs.filter_bank import FRAMES, MEL_BANDS
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.heads.blocks import FeedForward
from avfuse.stages.fuse.heads.dropout import Dropout

Pair = tuple[int, int]
Pooling = Literal["2d", "1d", "none"]

KERNELS: dict[Pooling, Pair] = {"2d": (3, 3), "1d": (1, 3), "none": (1, 1)}
FIRST_KEY_STRIDE = (4, 4)
"""Stride of keys and values; divided by the query strides of all stages so far, so that each stage has as many keys."""


RECIPE = Recipe(lr=1e-4, weight_decay=5e-2, batch_size=32, schedule="cosine", warmup=0.1)
"""Recipe of heads with such an encoder, which does not learn at a constant 1e-3 without warm-up."""


class MultiscaleOptions(Settings):
    """Pooling and regularisation."""

    pooling: Pooling = "2d"
    """`2d` over frequency and time, `1d` over time alone, `none`: no tokens are pooled."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Stochastic depth: probability of skipping the last block's residuals in training, lower linearly before it."""


class Embedding(NamedTuple):
    """Output of a multiscale transformer."""

    tokens: Tensor
    """(B, N, d), normalised."""
    pooled: Tensor
    """Their mean, (B, d)."""


def pooled_grid(grid: Pair, stride: Pair) -> Pair:
    """The grid after a stride: the first of every `stride` cells."""
    return (grid[0] - 1) // stride[0] + 1, (grid[1] - 1) // stride[1] + 1


def fitting_stride(stride: Pair, grid: Pair) -> Pair:
    """`stride`, or less on an axis where it would leave fewer than two whole steps; at least 1."""
    return max(1, min(stride[0], grid[0] // 2)), max(1, min(stride[1], grid[1] // 2))


def _along(kernel: Pair, stride: Pair) -> Pair:
    """`stride` on the axes that a pooling kernel covers, 1 on the others."""
    return stride[0] if kernel[0] > 1 else 1, stride[1] if kernel[1] > 1 else 1


class ConvolutionalPool(nn.Module):
    """Depthwise convolution over the grid, shared by all heads, then LayerNorm. (B, h, N, d) -> (B, h, N', d)."""

    def __init__(self, dim: int, grid: Pair, kernel: Pair, stride: Pair) -> None:
        super().__init__()
        self.grid = grid
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.convolve = nn.Conv2d(dim, dim, kernel, stride, padding, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        # This layout is channels last, in half the time of planes, forwards and backwards; vmap cannot convert to it by
        # name.
        cells = x.flatten(0, 1).contiguous().unflatten(1, self.grid).permute(0, 3, 1, 2)
        pooled = self.convolve(cells)
        return self.norm(pooled.permute(0, 2, 3, 1).flatten(1, 2)).unflatten(0, x.shape[:2])


class MaxPool(nn.Module):
    """Maximum over the grid, for the skip around pooled queries. (B, N, d) -> (B, N', d)."""

    def __init__(self, grid: Pair, stride: Pair) -> None:
        super().__init__()
        self.grid = grid
        kernel = tuple(step + 1 if step > 1 else 1 for step in stride)
        self.pool = nn.MaxPool2d(kernel, stride, tuple(size // 2 for size in kernel))

    def forward(self, x: Tensor) -> Tensor:
        cells = x.unflatten(1, self.grid).permute(0, 3, 1, 2)
        return self.pool(cells).permute(0, 2, 3, 1).flatten(1, 2)


class RelativePositions(nn.Module):
    """E_rel / sqrt(d) of MViTv2 (its equation 4), by the distance of a key from a query in frequency and in time.

    E_rel[i, j] = Q_i . (R_frequency[f(i) - f(j)] + R_time[t(i) - t(j)]), a learned vector per distance. Distances are
    between cells before pooling, so that they are the same everywhere on odd grids too, where MViTv2's ratio of lengths
    rounds; on grids that the strides divide the two are equal. MViTv2's code omits the division; the equation is
    followed here. (B, h, N, d) -> (B, h, N, M).
    """

    of_frequency: Tensor
    of_time: Tensor

    def __init__(self, dim: int, grid: Pair, query_stride: Pair, key_stride: Pair) -> None:
        super().__init__()
        self.grid = pooled_grid(grid, query_stride)
        (rows, of_frequency), (columns, of_time) = (
            _distances(grid[axis], query_stride[axis], key_stride[axis]) for axis in range(2)
        )
        self.frequency = nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, dim), std=0.02))
        self.time = nn.Parameter(nn.init.trunc_normal_(torch.empty(columns, dim), std=0.02))
        self.register_buffer("of_frequency", of_frequency, persistent=False)
        self.register_buffer("of_time", of_time, persistent=False)

    def forward(self, queries: Tensor) -> Tensor:
        cells = queries.unflatten(2, self.grid) * queries.shape[3] ** -0.5
        by_frequency = torch.einsum("bhftd,fkd->bhftk", cells, self.frequency[self.of_frequency])
        by_time = torch.einsum("bhftd,tkd->bhftk", cells, self.time[self.of_time])
        # Contiguous, so that the large sum is written once and in the order in which it is read.
        return (by_frequency.contiguous()[..., None] + by_time.contiguous()[..., None, :]).flatten(4).flatten(2, 3)


def _distances(cells: int, query_stride: int, key_stride: int) -> tuple[int, Tensor]:
    """Along one axis: the number of distances, and the index (queries, keys) of each pair's, from the smallest."""
    queries, keys = np.arange(0, cells, query_stride), np.arange(0, cells, key_stride)
    distances, which = np.unique(queries[:, None] - keys, return_inverse=True)
    return len(distances), torch.tensor(which.reshape(len(queries), len(keys)))


class PoolingAttention(nn.Module):
    """MViTv2's pooling attention with its residual: Q + softmax((Q K' + E_rel) / sqrt(d)) V, then a linear layer, where
    Q, K and V are pooled by `kernel`; one of a single cell pools nothing. (B, N, dim) -> (B, N', out_dim)."""

    def __init__(
        self, dim: int, out_dim: int, heads: int, grid: Pair, kernel: Pair, query_stride: Pair, key_stride: Pair
    ) -> None:
        super().__init__()
        self.heads = heads
        head_dim = out_dim // heads
        strides = (query_stride, key_stride, key_stride)
        self.qkv = nn.Linear(dim, 3 * out_dim)
        self.pools = nn.ModuleList(
            ConvolutionalPool(head_dim, grid, kernel, stride) if kernel != (1, 1) else nn.Identity()
            for stride in strides
        )
        self.positions = RelativePositions(head_dim, grid, query_stride, key_stride)
        self.project = nn.Linear(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self._pooled(x)
        mixed = self._weights(queries, keys) @ values
        return self.project((queries + mixed).transpose(1, 2).flatten(2))

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights: (B, N, dim) -> (B, heads, N', keys), rows sum to 1."""
        queries, keys, _ = self._pooled(x)
        return self._weights(queries, keys)

    def _pooled(self, x: Tensor) -> list[Tensor]:
        """Queries, keys, values (B, heads, N', d)."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return [pool(tensor) for pool, tensor in zip(self.pools, qkv, strict=True)]

    def _weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        # Not torch's function, which has no derivative by a mask under vmap; as fast.
        products = queries * queries.shape[3] ** -0.5 @ keys.transpose(2, 3)
        return (products + self.positions(queries)).softmax(dim=3)


class DropPath(Dropout):
    """Stochastic depth (arXiv 1603.09382): in training a clip is set to 0 with probability p, else scaled by
    1 / (1 - p). (B, N, d) -> (B, N, d)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * super().forward(torch.ones_like(x[:, :1, :1]))


class MultiscaleBlock(nn.Module):
    """MViTv2's pre-LN block: pooling attention, then a feed-forward net, each with a skip.

    Where queries are pooled, the skip is max-pooled; where attention widens tokens, it is a linear layer on the
    normalised input. (B, N, dim) -> (B, N', out_dim).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        heads: int,
        grid: Pair,
        kernel: Pair,
        query_stride: Pair,
        key_stride: Pair,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attend = PoolingAttention(dim, out_dim, heads, grid, kernel, query_stride, key_stride)
        self.widen = nn.Linear(dim, out_dim) if dim != out_dim else None
        self.pool_skip = MaxPool(grid, query_stride) if query_stride != (1, 1) else nn.Identity()
        self.feed = FeedForward(out_dim, dropout=0.0)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        skip = self.pool_skip(x if self.widen is None else self.widen(normed))
        x = skip + self.drop_path(self.attend(normed))
        return x + self.drop_path(self.feed(x))


class MultiscaleTransformer(nn.Module):
    """Stages of blocks; the first block of each pools the queries and widens the tokens. (B, N, dims[0]) -> Embedding.

    pooling, drop_path: as in `MultiscaleOptions`; `1d` keeps strides and kernels over time alone, `none` drops all.
    """

    def __init__(
        self,
        grid: Pair,
        depths: Sequence[int],
        dims: Sequence[int],
        heads: Sequence[int],
        query_strides: Sequence[Pair],
        pooling: Pooling,
        drop_path: float,
    ) -> None:
        super().__init__()
        if pooling not in KERNELS:
            raise UsageError(f"pooling is '{pooling}': choose from {', '.join(KERNELS)}")
        kernel = KERNELS[pooling]
        key_stride = _along(kernel, FIRST_KEY_STRIDE)
        drop_paths = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        self.grids = [grid]
        self.blocks = nn.ModuleList()
        dim = dims[0]
        for depth, out_dim, its_heads, stride in zip(depths, dims, heads, query_strides, strict=True):
            stride = _along(kernel, stride)
            key_stride = max(key_stride[0] // stride[0], 1), max(key_stride[1] // stride[1], 1)
            for _ in range(depth):
                query = fitting_stride(stride, grid)
                key = fitting_stride(key_stride, grid)
                self.blocks.append(MultiscaleBlock(dim, out_dim, its_heads, grid, kernel, query, key, next(drop_paths)))
                grid, dim, stride = pooled_grid(grid, query), out_dim, (1, 1)
            self.grids.append(grid)
        self.norm = nn.LayerNorm(dim)
        self.grid, self.dim = grid, dim
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Embedding:
        for block in self.blocks:
            x = block(x)
        tokens = self.norm(x)
        return Embedding(tokens, tokens.mean(dim=1))


def _initialise(module: nn.Module) -> None:
    """Linear layers as in MViTv2: weights from a truncated normal distribution of deviation .02, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class MAT(MultiscaleTransformer):
    """The Multiscale Audio Transformer on log-mel filter banks (B, frames, bands), time first as the cache has them.

    MViTv2-B's skeleton on a stem like AST's. For 1024 frames of 128 bands:

        stage  blocks  width  heads  queries    keys   cells    keys in its first block, in the others
        stem        -     96      -   (8, 4)       -  15 x 253
        1           2     96      1   (1, 1)  (4, 4)  15 x 253   4 x 64
        2           3    192      2   (1, 2)  (4, 2)  15 x 127   4 x 127, 4 x 64
        3          16    384      4   (2, 2)  (2, 1)   8 x 64    8 x 127, 4 x 64
        4           3    768      8   (2, 2)  (1, 1)   4 x 32    8 x 64, 4 x 32

    In brackets are strides over a block's input cells: of queries in the first block of a stage, of keys and values in
    all. The stem is a 16x16 convolution without padding, pools are 3x3 and padded, feed-forward
    nets four times as wide; no class token, no absolute positions. 50.98 M parameters and 25.1 G multiply-adds: 41 %
    fewer and 5.2 times fewer than AST's 86.2 M and 130.5 G; published are 42 % and 5 times. Published are also the
    kernel of the stem and that pooling is over time first and over both axes later; the rest is MViTv2-B's. With the
    stem's strides the other way round there would be 29 x 127 cells and 23.7 G.

    With `1d` pooling 15 x 32 cells are left (59.8 G), with `none` all 3,795. -> Embedding of (B, 128, 768).
    """

    KERNEL, STRIDE = (16, 16), (8, 4)

    def __init__(
        self, bands: int = MEL_BANDS, frames: int = FRAMES, pooling: Pooling = "2d", drop_path: float = 0.1
    ) -> None:
        (bands_seen, frames_seen), (step_bands, step_frames) = self.KERNEL, self.STRIDE
        super().__init__(
            grid=((bands - bands_seen) // step_bands + 1, (frames - frames_seen) // step_frames + 1),
            depths=(2, 3, 16, 3),
            dims=(96, 192, 384, 768),
            heads=(1, 2, 4, 8),
            query_strides=((1, 1), (1, 2), (2, 2), (2, 2)),
            pooling=pooling,
            drop_path=drop_path,
        )
        self.stem = nn.Conv2d(1, 96, self.KERNEL, self.STRIDE)

    def forward(self, banks: Tensor) -> Embedding:
        return super().forward(self.stem(banks.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2))


class MATLite(MultiscaleTransformer):
    """The same blocks on a frozen backbone's grid of audio tokens: AST's 12 x 101, the same averaged
    to 6 x 50, `lite`'s 4 x 32. tokens (B, F * T, dim), without CLS and its like -> Embedding.

    A linear layer, then three stages of one block: widths 192, 384, 768, heads 2, 4, 8, and the strides of MAT's later
    stages, reduced on short axes so that pooling leaves at least two cells of several.

        cells in    stage 1   stage 2  stage 3   parameters  multiply-adds
        12 x 101    12 x 51   6 x 26   3 x 13        8.76 M         1.39 G
         6 x 50      6 x 25   3 x 13   3 x 7         8.74 M         0.39 G
         4 x 32      4 x 16   2 x 8    2 x 4         8.84 M         0.17 G  (dim 1280)

    With `1d` pooling AST's grid ends as 12 x 13 (2.70 G), with `none` it stays (14.7 G).
    """

    def __init__(self, dim: int = 768, grid: Pair = (12, 101), pooling: Pooling = "2d", drop_path: float = 0.1) -> None:
        super().__init__(
            grid=grid,
            depths=(1, 1, 1),
            dims=(192, 384, 768),
            heads=(2, 4, 8),
            query_strides=((1, 2), (2, 2), (2, 2)),
            pooling=pooling,
            drop_path=drop_path,
        )
        self.narrow = nn.Linear(dim, 192)
        _initialise(self.narrow)

    def forward(self, tokens: Tensor) -> Embedding:
        return super().forward(self.narrow(tokens))
