"""Shared bottleneck tokens: AVT's AVBottleneck (equations 3 and 4), sizes of the light preset ours."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.fuse.heads.base import Head, Masks, ModalityShape, Optimisation, register_head
from stages.fuse.heads.blocks import Attention, FeedForward, TokenProjection
from stages.fuse.targets import Targets

DIM, HEADS, DROPOUT = 128, 4, 0.1
BOTTLENECK_TOKENS, BLOCKS = 4, 4


class _Block(nn.Module):
    """Pre-LN self-attention and feed-forward. (B, N, d) -> (B, N, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.attend = Attention(DIM, HEADS, DROPOUT)
        self.feed = FeedForward(DIM, DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.attend(normed, normed)
        return x + self.feed(x)


@register_head("bottleneck", modalities=("video", "audio"), summary="modalities meet only in four shared tokens (AVT)")
class Bottleneck(Head):
    """Video and audio exchange information only through `BOTTLENECK_TOKENS` shared tokens F.

    Per block: [V, F] -> video block -> [V', F_v]; [F_v, A] -> audio block -> [F_a, A']; F <- F_a. After the last,
    [mean V' ; mean A'] -> LN -> Linear.
    """

    optimisation = Optimisation(learning_rate=1e-3, weight_decay=5e-2, batch_size=32, epochs=40, patience=6)

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__(shapes, targets)
        self.project = TokenProjection(shapes, DIM)
        self.shared = nn.Parameter(torch.randn(BOTTLENECK_TOKENS, DIM) * 0.02)
        self.video_blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.audio_blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.classifier = nn.Sequential(nn.LayerNorm(2 * DIM), nn.Linear(2 * DIM, targets.width))

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        streams = self.project(self.read(prepared, present))
        video, audio = streams["video"], streams["audio"]
        shared = self.shared.expand(len(video), -1, -1)
        for video_block, audio_block in zip(self.video_blocks, self.audio_blocks, strict=True):
            joined = video_block(torch.cat([video, shared], dim=1))
            video, shared = joined[:, : video.shape[1]], joined[:, video.shape[1] :]
            joined = audio_block(torch.cat([shared, audio], dim=1))
            shared, audio = joined[:, :BOTTLENECK_TOKENS], joined[:, BOTTLENECK_TOKENS:]
        return {"logits": self.classifier(torch.cat([video.mean(dim=1), audio.mean(dim=1)], dim=1))}
