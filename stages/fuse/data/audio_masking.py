"""Masks of masked learning: whole audio segments (AVT's MASegm, section 3.2.1), or random tokens (its MAV).

A clip's segments are computed once, by `segment_boundaries`; masks are drawn per batch and are True where a token is
hidden. Draws depend on the generator and its device, not on the device of the clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.signal import find_peaks, savgol_filter
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.features.inputs.filter_bank import HALF_RANGE, MEAN

SEGMENTS = 50
MASKED_SHARE = 0.04
_FRAMES_PER_SEGMENT = 8  # at least, on average: below that segments would be shorter than the smoothing
_LARGEST_RADIUS = 4
_FILTER_FRAMES, _SMOOTHING_FRAMES = 9, 5
_SMALLEST_CHANGE = 1e-6  # rounding of silence
_PADDING = -MEAN / HALF_RANGE
_PADDING_TOLERANCE = 1e-3  # half precision


@dataclass(frozen=True)
class AudioGrid:
    """The grid of a backbone's tokens over the filter bank, row by row."""

    rows: int
    """Along 128 mel bins."""
    columns: int
    """Along 1024 frames."""
    patch: int
    """Side of a token, in bins and frames."""
    stride: int
    """Distance between tokens, in bins and frames."""

    @property
    def cells(self) -> tuple[int, int]:
        return self.rows, self.columns

    def centres(self, device: torch.device) -> Tensor:
        """The middle of each column in frames: float (columns,)."""
        return torch.arange(self.columns, device=device) * self.stride + self.patch / 2


AUDIO_GRIDS = (
    AudioGrid(12, 101, patch=16, stride=10),  # AST
    AudioGrid(6, 50, patch=26, stride=20),  # AST's, means of 2 x 2
    AudioGrid(4, 32, patch=32, stride=32),  # lite
)


def audio_grid(cells: tuple[int, int]) -> AudioGrid:
    """The grid with these rows and columns. Raises UsageError that lists the known grids."""
    for grid in AUDIO_GRIDS:
        if grid.cells == cells:
            return grid
    known = ", ".join("x".join(map(str, grid.cells)) for grid in AUDIO_GRIDS)
    raise UsageError(f"audio tokens in a grid of {'x'.join(map(str, cells))}: choose features with one of {known}")


def count_valid_frames(banks: Tensor) -> Tensor:
    """Frames up to the last that is not padding. Normalised filter banks (B, 1024, 128), single or half precision ->
    int64 (B,)."""
    is_sound = ((banks.float() - _PADDING).abs() > _PADDING_TOLERANCE).any(dim=2)
    return (is_sound * torch.arange(1, banks.shape[1] + 1, device=banks.device)).amax(dim=1)


def segment_boundaries(bank: NDArray[np.floating], valid_frames: int) -> NDArray[np.int64]:
    """Boundaries of a clip's audio segments.

    Savitzky-Golay smoothing of second order over time, absolute gradient, mean over mel bins, moving average; its
    largest peaks, none within a radius of a larger one or of the ends, cut the clip. n = min(50, valid_frames // 8)
    segments (one where that is 0), radius min(4, valid_frames // (4 n)). Where there are fewer peaks, the longest
    segment is halved until there are n.

    Args:
        bank: normalised filter bank (frames, 128), time first.
        valid_frames: frames before the padding.

    Returns:
        int64 (n + 1,), strictly increasing from 0 to valid_frames; segment i is the frames from boundary i up to, but
        not including, boundary i + 1. Only [0] for a clip without frames.
    """
    if valid_frames < 1:
        return np.zeros(1, dtype=np.int64)
    count = max(1, min(SEGMENTS, valid_frames // _FRAMES_PER_SEGMENT))
    radius = min(_LARGEST_RADIUS, valid_frames // (4 * count))
    boundaries = [0, valid_frames]
    if count > 1:
        boundaries[1:1] = sorted(_change_points(bank[:valid_frames], count - 1, radius))
    while len(boundaries) <= count:
        longest = int(np.argmax(np.diff(boundaries)))
        boundaries.insert(longest + 1, (boundaries[longest] + boundaries[longest + 1]) // 2)
    return np.array(boundaries, dtype=np.int64)


def spectral_change(bank: NDArray[np.floating], valid_frames: int) -> NDArray[np.float64]:
    """Change of a clip's spectrum at each of its frames, of which `segment_boundaries` takes the peaks: float64
    (valid_frames,), 0 for clips shorter than the smoothing. bank: normalised filter bank (frames, 128)."""
    if valid_frames < _FILTER_FRAMES:
        return np.zeros(valid_frames)
    smooth = savgol_filter(bank[:valid_frames].astype(np.float64), _FILTER_FRAMES, polyorder=2, axis=0)
    change = np.abs(np.gradient(smooth, axis=0)).mean(axis=1)
    padded = np.pad(change, _SMOOTHING_FRAMES // 2, mode="edge")
    return np.convolve(padded, np.full(_SMOOTHING_FRAMES, 1 / _SMOOTHING_FRAMES), mode="valid")


def _change_points(bank: NDArray[np.floating], count: int, radius: int) -> list[int]:
    """The frames of the largest changes, at most `count`."""
    change = spectral_change(bank, len(bank))
    peaks, properties = find_peaks(change[radius:-radius], height=_SMALLEST_CHANGE, distance=radius + 1)
    largest = np.argsort(-properties["peak_heights"], kind="stable")[:count]
    return (peaks[largest] + radius).tolist()


def stack_boundaries(boundaries: Sequence[NDArray[np.int64]]) -> Tensor:
    """Boundaries of several clips, int64 (B, 51): a clip with fewer segments repeats its last one."""
    return torch.from_numpy(np.stack([np.pad(own, (0, SEGMENTS + 1 - len(own)), mode="edge") for own in boundaries]))


def draw_segment_mask(boundaries: Tensor, generator: torch.Generator) -> Tensor:
    """Hide round(.04 n) of a clip's n segments, at least one. boundaries int64 (B, 51) -> bool (B, 50), all False for a
    clip without frames."""
    return draw_mask(boundaries.diff(dim=1) > 0, generator)


def draw_mask(valid: Tensor, generator: torch.Generator) -> Tensor:
    """Hide random tokens, AVT's L_MAV: round(.04 n) of a clip's n valid ones, at least one of any. bool (B, T) ->
    bool (B, T)."""
    count = valid.sum(dim=1)
    hidden = (MASKED_SHARE * count).round().clamp(min=1).minimum(count)
    chance = torch.rand(valid.shape, generator=generator, device=generator.device).to(valid.device)
    largest = max(1, round(MASKED_SHARE * valid.shape[1]))
    chosen = chance.masked_fill(~valid, -1).topk(largest, dim=1).indices
    ranks = torch.arange(largest, device=valid.device)
    return torch.zeros_like(valid).scatter(1, chosen, ranks < hidden[:, None])


def valid_columns(valid_frames: Tensor, grid: AudioGrid) -> Tensor:
    """Token columns whose middle lies in the clip, not in padding. int64 (B,) -> bool (B, columns)."""
    return grid.centres(valid_frames.device) < valid_frames[:, None]


def masked_columns(boundaries: Tensor, masked: Tensor, grid: AudioGrid) -> Tensor:
    """Token columns that masked segments hide: those whose middle lies in one, or for a segment without any the nearest
    whose middle lies in the clip, the earlier of two.

    boundaries int64 (B, 51), masked bool (B, 50) -> bool (B, columns). Clips without a valid column are not masked:
    `count_unmasked` counts them.
    """
    centres = grid.centres(boundaries.device).expand(len(boundaries), -1).contiguous()
    segment = torch.searchsorted(boundaries[:, 1:].float(), centres, right=True)  # 50 behind the clip's end
    known = F.pad(masked, (0, 1))
    columns = known.gather(1, segment)

    bare = known & ~torch.zeros_like(known).scatter(1, segment, True)
    middles = (boundaries[:, :-1] + boundaries[:, 1:]) / 2
    last = valid_columns(boundaries[:, -1], grid).sum(dim=1, keepdim=True) - 1
    nearest = ((middles - grid.patch / 2) / grid.stride - 0.5).ceil().long().clamp(min=0).minimum(last)
    clip, which = (bare[:, :-1] & (last >= 0)).nonzero(as_tuple=True)
    columns[clip, nearest[clip, which]] = True
    return columns


def columns_to_tokens(columns: Tensor, grid: AudioGrid) -> Tensor:
    """All tokens of these columns: bool (B, columns) -> bool (B, rows * columns)."""
    return columns[:, None].expand(-1, grid.rows, -1).flatten(1)


def count_unmasked(mask: Tensor, present: Tensor) -> Tensor:
    """Number of clips with the modality, bool (B,), of which no token is hidden, bool (B, T). A scalar."""
    return (present & ~mask.any(dim=1)).sum()
