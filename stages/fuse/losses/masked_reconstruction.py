"""Masked learning: hide input, reconstruct it from fused tokens. AVT's MASegm and MAV (equation 6)."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.audio_masking import (
    audio_grid,
    columns_to_tokens,
    count_unmasked,
    draw_mask,
    draw_segment_mask,
    masked_columns,
    valid_columns,
)
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.losses.reconstruction import (
    AudioDecoder,
    VideoDecoder,
    layer_normalised,
    masked_mse,
    masked_pixels,
)


class MaskedReconstruction(nn.Module):
    """Decoders of fused tokens, and their errors where the input was hidden.

    Sound is hidden in whole segments or single tokens, pictures in single tokens. Tokens before a grid (CLS,
    distillation), padding and missing modalities are never hidden.
    """

    def __init__(
        self,
        shapes: Mapping[str, ModalityShape],
        dims: Mapping[str, int],
        mask: Literal["segments", "random"],
        banks: FilterBanks | None,
    ) -> None:
        """Build the decoders.

        Args:
            shapes: of the modalities.
            dims: of fused tokens, by modality.
            mask: how sound is hidden.
            banks: of all clips.

        Raises UsageError without banks, or for sound without a known grid.
        """
        super().__init__()
        cells = shapes["audio"].grid
        if cells is None:
            raise UsageError("masked reconstruction needs audio tokens in a grid: AUDIO=lite:fbank:tokens (--audio)")
        if banks is None:
            raise UsageError("masked reconstruction needs the clips' filter banks: load_data(..., banks=True)")
        self.grid = audio_grid(cells)  # type: ignore[arg-type]  # of another length it is refused
        self.shapes, self.mask, self.banks = shapes, mask, banks
        self.audio = AudioDecoder(dims["audio"], self.grid.cells)
        self.video = VideoDecoder(dims["video"], shapes["video"].dim)

    def draw(self, index: Tensor, has: Mapping[str, Tensor], draws: torch.Generator) -> dict[str, Tensor]:
        """Draw masks of the clips at index (B,): bool (B, T) by modality, without tokens before the grid. has: bool
        (B,) by modality, which clips have it."""
        if self.mask == "segments":
            boundaries = self.banks.boundaries[index]
            columns = masked_columns(boundaries, draw_segment_mask(boundaries, draws), self.grid)
            audio = columns_to_tokens(columns, self.grid)
        else:
            audio = draw_mask(self._maskable(index), draws)
        count = self.shapes["video"].length - self.shapes["video"].prefix
        video = draw_mask(has["video"][:, None].expand(-1, count), draws)
        return {"audio": audio & has["audio"][:, None], "video": video}

    def hide(self, prepared: Mapping[str, Tensor], hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Standardised tokens (B, T, D) with 0, the mean, where they are hidden."""
        return {
            name: tokens.masked_fill(F.pad(hidden[name], (self.shapes[name].prefix, 0))[:, :, None], 0)
            for name, tokens in prepared.items()
        }

    def errors(
        self, fused: Mapping[str, Tensor], cached_video: Tensor, index: Tensor, hidden: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Mean squared errors where input was hidden, a scalar by modality: sound against the filter bank, pictures
        against the layer-normalised cached tokens.

        Args:
            fused: (B, T, d) by modality.
            cached_video: (B, T, D).
            index: (B,), the clips.
            hidden: masks of `draw`.
        """
        cells = {name: tokens[:, self.shapes[name].prefix :] for name, tokens in fused.items()}
        banks = self.banks.rows[index].to(cells["audio"].dtype).transpose(1, 2)
        pixels = masked_pixels(hidden["audio"], self.grid, self.banks.valid_frames[index])
        target = layer_normalised(cached_video[:, self.shapes["video"].prefix :])
        return {
            "audio": masked_mse(self.audio(cells["audio"]), banks, pixels),
            "video": masked_mse(self.video(cells["video"]), target, hidden["video"]),
        }

    def count_too_short(self, clips: Tensor) -> int:
        """Number of the clips at these indices whose sound ends before the middle of a token's column: it is never
        hidden."""
        return int(count_unmasked(self._maskable(clips), self.banks.present[clips]))

    def _maskable(self, index: Tensor) -> Tensor:
        """Audio tokens that are not padding. bool (B, rows * columns)."""
        return columns_to_tokens(valid_columns(self.banks.valid_frames[index], self.grid), self.grid)
