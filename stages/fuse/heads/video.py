"""Picture alone: the video MLP of MAiVAR (arXiv 2209.04780)."""

from collections.abc import Mapping

from torch import Tensor

from stages.fuse.heads.base import Head, ModalityShape, register_head
from stages.fuse.heads.blocks import mlp
from stages.fuse.targets import Targets


@register_head("video", modalities=("video",), summary="mean video frame alone, MLP")
class VideoOnly(Head):
    """Mean over frames -> MLP -> logits."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__(shapes, targets)
        self.classifier = mlp(shapes["video"].dim, targets.width)

    def forward(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.read(tokens, present)["video"].mean(dim=1))}
