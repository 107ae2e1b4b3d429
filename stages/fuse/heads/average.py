"""Late fusion: the mean of two classifiers."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.audio import AudioOnly
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.heads.video import VideoOnly, VideoOptions


@register_head(
    "average", modalities=("video", "audio"), summary="late fusion: mean of the two classifiers' probabilities"
)
class Average(Head):
    """The `audio` and the `video` head, each trained on its own loss; their class probabilities are averaged over the
    modalities that a clip has, target by target. Their training is independent."""

    class Options(VideoOptions):
        """Options of both classifiers."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: VideoOptions) -> None:
        super().__init__({}, targets)
        self.video = VideoOnly({"video": shapes["video"]}, targets, options)
        self.audio = AudioOnly({"audio": shapes["audio"]}, targets, options)

    def modality_inputs(self) -> dict[str, ModalityInput]:
        return self.video.modality_inputs() | self.audio.modality_inputs()

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        single = {name: getattr(self, name)(prepared, present)["logits"] for name in ("video", "audio")}
        absent = torch.stack([_absent(present[name], logits) for name, logits in single.items()])
        absent &= ~absent.all(dim=0)  # a clip with neither modality keeps both priors
        by_target = zip(*(self.targets.split(logits) for logits in single.values()), strict=True)
        merged = [
            _mean_probability_logits(torch.stack(logits), absent, target.sigmoid)
            for target, logits in zip(self.targets, by_target, strict=True)
        ]
        return {"logits": torch.cat(merged, dim=1), **single}

    def loss(
        self, outputs: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor], smoothing: float = 0.0
    ) -> Tensor:
        """Sum of the two heads' losses."""
        video = self.video.loss({"logits": outputs["video"]}, present, truth, smoothing)
        audio = self.audio.loss({"logits": outputs["audio"]}, present, truth, smoothing)
        return video + audio


def _absent(present: Tensor | None, logits: Tensor) -> Tensor:
    """Clips without a modality, bool (B,)."""
    return torch.zeros_like(logits[:, 0], dtype=torch.bool) if present is None else ~present


def _mean_probability_logits(logits: Tensor, absent: Tensor, sigmoid: bool) -> Tensor:
    """Logits of the mean probability over present modalities. (M, B, C), absent bool (M, B) -> (B, C)."""
    if sigmoid:
        return _log_mean(F.logsigmoid(logits), absent) - _log_mean(F.logsigmoid(-logits), absent)
    return _log_mean(logits.log_softmax(dim=2), absent)


def _log_mean(logs: Tensor, absent: Tensor) -> Tensor:
    count = (~absent).sum(dim=0)
    return logs.masked_fill(absent[:, :, None], -torch.inf).logsumexp(dim=0) - count.log()[:, None]
