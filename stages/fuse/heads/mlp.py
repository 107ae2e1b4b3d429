"""Concatenation and an MLP: MAiVAR's fusion network (arXiv 2209.04780, section III-C)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from stages.fuse.heads.base import Head, ModalityShape, register_head
from stages.fuse.heads.blocks import mlp
from stages.fuse.targets import Targets


@register_head("mlp", modalities=("video", "audio"), summary="mean video frame and all audio images, concatenated, MLP")
class MlpFusion(Head):
    """[mean over frames ; audio images side by side] -> MLP -> logits."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__(shapes, targets)
        video, audio = shapes["video"], shapes["audio"]
        self.classifier = mlp(video.dim + audio.length * audio.dim, targets.width)

    def forward(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        read = self.read(tokens, present)
        joined = torch.cat([read["video"].mean(dim=1), read["audio"].flatten(1)], dim=1)
        return {"logits": self.classifier(joined)}
