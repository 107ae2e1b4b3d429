"""Picture alone: the video MLP of MAiVAR (arXiv 2209.04780)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from stages.fuse.heads.base import Head, Masks, ModalityShape, register_head
from stages.fuse.heads.blocks import mlp
from stages.fuse.heads.inputs import Form
from stages.fuse.targets import Targets


@register_head("video", modalities=("video",), summary="mean video frame alone, MLP")
class VideoOnly(Head):
    """Mean over frames -> MLP -> logits."""

    forms: ClassVar[Mapping[str, Form]] = {"video": "mean"}

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__(shapes, targets)
        self.classifier = mlp(self.input("video").width, targets.width)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.read(prepared, present)["video"])}
