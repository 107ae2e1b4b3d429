"""Sound alone: the audio MLP of MAiVAR (arXiv 2209.04780)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from stages.fuse.heads.base import Head, Masks, ModalityShape, register_head
from stages.fuse.heads.blocks import mlp
from stages.fuse.heads.inputs import Form
from stages.fuse.targets import Targets


@register_head("audio", modalities=("audio",), summary="audio images alone, side by side, MLP")
class AudioOnly(Head):
    """Audio images side by side -> MLP -> logits."""

    forms: ClassVar[Mapping[str, Form]] = {"audio": "flatten"}

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__(shapes, targets)
        self.classifier = mlp(self.input("audio").width, targets.width)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.read(prepared, present)["audio"])}
