"""One bidirectional cross-attention layer: MAiVAR-T (arXiv 2308.03741), sizes ours."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.fuse.heads.base import Head, Masks, ModalityShape, Optimisation, register_head
from stages.fuse.heads.blocks import Attention, FeedForward, TokenProjection
from stages.fuse.targets import Targets

DIM, HEADS, DROPOUT = 128, 4, 0.1


@register_head(
    "crossattn", modalities=("video", "audio"), summary="one bidirectional cross-attention layer over tokens"
)
class CrossAttention(Head):
    """Frames and audio images attend to each other once.

    V' = V + MHA(LN V, LN A) and A' = A + MHA(LN A, LN V), both reading the other's old stream; then a feed-forward
    block each; [mean V' ; mean A'] -> LN -> Linear.
    """

    optimisation = Optimisation(learning_rate=1e-3, weight_decay=5e-2, batch_size=32, epochs=40, patience=6)

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__(shapes, targets)
        names = ("video", "audio")
        self.project = TokenProjection(shapes, DIM)
        self.norm = nn.ModuleDict({name: nn.LayerNorm(DIM) for name in names})
        self.attend = nn.ModuleDict({name: Attention(DIM, HEADS, DROPOUT) for name in names})
        self.feed = nn.ModuleDict({name: FeedForward(DIM, DROPOUT) for name in names})
        self.classifier = nn.Sequential(nn.LayerNorm(2 * DIM), nn.Linear(2 * DIM, targets.width))

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        streams = self.project(self.read(prepared, present))
        normed = {name: self.norm[name](x) for name, x in streams.items()}
        video = streams["video"] + self.attend["video"](normed["video"], normed["audio"])
        audio = streams["audio"] + self.attend["audio"](normed["audio"], normed["video"])
        video = video + self.feed["video"](video)
        audio = audio + self.feed["audio"](audio)
        return {"logits": self.classifier(torch.cat([video.mean(dim=1), audio.mean(dim=1)], dim=1))}
