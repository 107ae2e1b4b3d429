"""Concatenation and an MLP: MAiVAR's fusion network (arXiv 2209.04780, section III-C)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from stages.fuse.heads.base import Head, Masks, ModalityShape, register_head
from stages.fuse.heads.blocks import mlp
from stages.fuse.heads.inputs import Form
from stages.fuse.targets import Targets


@register_head("mlp", modalities=("video", "audio"), summary="mean video frame and all audio images, concatenated, MLP")
class MlpFusion(Head):
    """[mean over frames ; audio images side by side] -> MLP -> logits."""

    forms: ClassVar[Mapping[str, Form]] = {"video": "mean", "audio": "flatten"}

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__(shapes, targets)
        self.classifier = mlp(self.input("video").width + self.input("audio").width, targets.width)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        read = self.read(prepared, present)
        return {"logits": self.classifier(torch.cat([read["video"], read["audio"]], dim=1))}
