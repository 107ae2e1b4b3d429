"""Sound alone: the audio MLP of MAiVAR (arXiv 2209.04780)."""

from collections.abc import Mapping

from torch import Tensor

from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.blocks import MlpOptions, mlp


@register_head("audio", modalities=("audio",), summary="audio images alone, side by side, MLP")
class AudioOnly(Head):
    """Audio images side by side -> MLP -> logits. A grid of tokens is pooled to one vector, its CLS or mean."""

    class Options(MlpOptions):
        """Sizes."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: MlpOptions) -> None:
        super().__init__(shapes, targets, {"audio": "flatten" if shapes["audio"].grid is None else "pooled"})
        self.classifier = mlp(self.input("audio").width, targets.width, options)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.fill_missing(prepared, present)["audio"])}
