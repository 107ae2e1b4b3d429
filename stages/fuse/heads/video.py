"""Video alone: the video MLP of MAiVAR (arXiv 2209.04780)."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.blocks import MlpOptions, mlp


class VideoOptions(MlpOptions):
    """Pooling of frames to one vector."""

    video: Literal["mean", "flatten"] = "mean"
    """Their mean (of a grid of tokens, its CLS or mean), or all side by side, as in MAiVAR."""


@register_head("video", modalities=("video",), summary="mean video frame alone, MLP")
class VideoOnly(Head):
    """Mean over frames, or frames side by side -> MLP -> logits."""

    class Options(VideoOptions):
        """Sizes, and pooling of frames."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: VideoOptions) -> None:
        super().__init__(shapes, targets, {"video": "flatten" if options.video == "flatten" else "pooled"})
        self.classifier = mlp(self.input("video").width, targets.width, options)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.fill_missing(prepared, present)["video"])}
