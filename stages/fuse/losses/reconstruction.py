"""Decoders of AVT's masked learning (equation 6), from fused tokens to the hidden input, and the error there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avfuse.features.inputs.filter_bank import FRAMES, MEL_BANDS
from avfuse.stages.fuse.data.audio_masking import AudioGrid, audio_grid

_CONVOLUTIONS = {(12, 101): ((16, 16), (2, 8)), (6, 50): ((28, 32), (0, 12)), (4, 32): ((32, 32), (0, 0))}
"""Kernel by grid, and the bins and frames at the end that it does not reach."""


class AudioDecoder(nn.Module):
    """Tokens laid out as their grid, then one transposed convolution. (B, rows * columns, d), without CLS or
    distillation -> (B, 128, 1024), bins by frames: the filter bank on its side.

    cells: rows and columns of the grid, (12, 101), (6, 50) or (4, 32). Raises UsageError that names them for another.
    """

    def __init__(self, dim: int, cells: tuple[int, int]) -> None:
        super().__init__()
        self.grid = audio_grid(cells)
        kernel, left_over = _CONVOLUTIONS[cells]
        self.spread = nn.ConvTranspose2d(dim, 1, kernel, self.grid.stride, output_padding=left_over)

    def forward(self, tokens: Tensor) -> Tensor:
        laid_out = tokens.transpose(1, 2).unflatten(2, self.grid.cells)
        return self.spread(laid_out).squeeze(1)


class VideoDecoder(nn.Linear):
    """Tokens back to the dimension of the cached ones. (B, T, d) -> (B, T, D). Its target is `layer_normalised`."""


def layer_normalised(tokens: Tensor) -> Tensor:
    """Tokens with mean 0 and variance 1 over their dimensions. (B, T, D) -> (B, T, D)."""
    return F.layer_norm(tokens, tokens.shape[-1:])


def masked_pixels(mask: Tensor, grid: AudioGrid, valid_frames: Tensor) -> Tensor:
    """Pixels of the filter bank that hidden tokens cover: token (r, c) covers `patch` bins from r * stride on and
    `patch` frames from c * stride on, padding excluded.

    AST's patches overlap: pixels that a hidden token shares with a visible one count. Those that no token covers (the
    last 2 bins and 8 frames of 12 x 101; the last 2 and 18 of 6 x 50) never do.

    Args:
        mask: bool (B, rows * columns), the hidden tokens.
        grid: of the tokens.
        valid_frames: int64 (B,), frames before the padding.

    Returns:
        bool (B, 128, 1024).
    """
    hidden = mask.unflatten(1, grid.cells).float()
    bins = _covered(grid.rows, MEL_BANDS, grid, mask.device)
    frames = _covered(grid.columns, FRAMES, grid, mask.device)
    touched = bins.T @ hidden @ frames
    own = torch.arange(FRAMES, device=mask.device) < valid_frames[:, None]
    return (touched > 0) & own[:, None]


def masked_mse(given: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over a clip's masked positions, then over the clips that have any (equation 6).

    Args:
        given: (B, ...), the reconstruction.
        target: in its shape. Unmasked positions may be NaN.
        mask: bool, with the leading dimensions of given: pixels (B, 128, 1024) or tokens (B, T).

    Returns:
        A scalar; 0, with a gradient of 0, where nothing is masked.
    """
    mask = mask.reshape(*mask.shape, *(1 for _ in range(given.ndim - mask.ndim))).expand_as(given)
    squared = torch.where(mask, given - target, 0).square().flatten(1).sum(dim=1)
    count = mask.flatten(1).sum(dim=1)
    return (squared / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def _covered(tokens: int, pixels: int, grid: AudioGrid, device: torch.device) -> Tensor:
    """Pixels along an axis that each token covers: float (tokens, pixels), 0 or 1."""
    offset = torch.arange(pixels, device=device) - torch.arange(tokens, device=device)[:, None] * grid.stride
    return ((offset >= 0) & (offset < grid.patch)).float()
