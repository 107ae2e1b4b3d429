"""Shared bottleneck tokens: AVT's AVBottleneck (equations 3 and 4), and MBT's (arXiv 2107.00135)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.blocks import Attention, FeedForward, TokenProjection, TransformerOptions


class BottleneckOptions(TransformerOptions):
    """Width of the bottleneck, and its update from block to block."""

    shared: Annotated[int, Field(ge=1)] = 4
    """Tokens that both modalities share; L in AVT."""
    blocks: Annotated[int, Field(ge=1)] = 4
    """K in AVT."""
    update: Literal["serial_last", "serial_mean", "parallel_mean"] = "serial_last"
    """Update of the shared tokens F in a block. `serial_last`: video reads F, audio reads video's output F_v, and F
    becomes audio's output F_a, the letter of AVT's equations. `serial_mean`: it becomes the mean of F_v and F_a.
    `parallel_mean`: both read the same F, and it becomes their mean, as in MBT."""


class _BottleneckBlock(nn.Module):
    """Pre-LN self-attention and feed-forward. (B, N, d) -> (B, N, d)."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(options.dim)
        self.attend = Attention(options.dim, options.heads, options.dropout)
        self.feed = FeedForward(options.dim, options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.attend(normed, normed)
        return x + self.feed(x)


class AVBottleneck(nn.Module):
    """Video (B, T, d) and audio (B, U, d) exchange information only through shared tokens F -> both, in their shapes.

    Per block: [V, F] -> video block -> [V', F_v]; [F_v, A] -> audio block -> [F_a, A'], or with `parallel_mean` [F, A].
    """

    def __init__(self, options: BottleneckOptions) -> None:
        super().__init__()
        self.update = options.update
        self.shared = nn.Parameter(torch.randn(options.shared, options.dim) * 0.02)
        self.video_blocks = nn.ModuleList(_BottleneckBlock(options) for _ in range(options.blocks))
        self.audio_blocks = nn.ModuleList(_BottleneckBlock(options) for _ in range(options.blocks))

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.shared.expand(len(video), -1, -1)
        count, frames = shared.shape[1], video.shape[1]
        for video_block, audio_block in zip(self.video_blocks, self.audio_blocks, strict=True):
            joined = video_block(torch.cat([video, shared], dim=1))
            video, of_video = joined[:, :frames], joined[:, frames:]
            joined = audio_block(torch.cat([shared if self.update == "parallel_mean" else of_video, audio], dim=1))
            of_audio, audio = joined[:, :count], joined[:, count:]
            shared = of_audio if self.update == "serial_last" else (of_video + of_audio) / 2
        return video, audio


@register_head("bottleneck", modalities=("video", "audio"), summary="modalities meet only in four shared tokens (AVT)")
class Bottleneck(Head):
    """Tokens of both modalities through `AVBottleneck`; [V' ; A'] -> LN -> Linear, of each stream its CLS where it has
    one, else the mean."""

    class Options(BottleneckOptions):
        """Sizes, shared tokens, blocks, update."""

    recipe = Recipe(lr=1e-3, weight_decay=5e-2, batch_size=32, epochs=40, patience=6)

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: BottleneckOptions) -> None:
        super().__init__(shapes, targets)
        self.project = TokenProjection(self.shapes, options.dim)
        self.exchange = AVBottleneck(options)
        self.classifier = nn.Sequential(nn.LayerNorm(2 * options.dim), nn.Linear(2 * options.dim, targets.width))

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        before = self.project(self.fill_missing(prepared, present))
        video, audio = self.exchange(before["video"], before["audio"])
        of_video, of_audio = self.shapes["video"].pool(video), self.shapes["audio"].pool(audio)
        return {
            "logits": self.classifier(torch.cat([of_video, of_audio], dim=1)),
            "before_video": self.shapes["video"].pool(before["video"]),
            "before_audio": self.shapes["audio"].pool(before["audio"]),
            "after_video": of_video,
            "after_audio": of_audio,
            "tokens_video": video,
            "tokens_audio": audio,
        }
