"""Late fusion: two classifiers, averaged."""

from collections.abc import Mapping

import torch
from torch import Tensor

from stages.fuse.heads.audio import AudioOnly
from stages.fuse.heads.base import Head, ModalityShape, register_head
from stages.fuse.heads.video import VideoOnly


@register_head(
    "average", modalities=("video", "audio"), summary="late fusion: mean of the two classifiers' probabilities"
)
class Average(Head):
    """The `audio` and the `video` head, each trained on its own loss; their class probabilities are averaged over the
    modalities that a clip has. Neither sees the other while training."""

    def __init__(self, shapes: Mapping[str, ModalityShape], classes: int) -> None:
        super().__init__({}, classes)
        self.video = VideoOnly({"video": shapes["video"]}, classes)
        self.audio = AudioOnly({"audio": shapes["audio"]}, classes)

    def fit_inputs(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        self.video.fit_inputs(tokens, present)
        self.audio.fit_inputs(tokens, present)

    def forward(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        single = {name: getattr(self, name)(tokens, present)["logits"] for name in ("video", "audio")}
        logs = torch.stack([logits.log_softmax(dim=1) for logits in single.values()])
        absent = ~torch.stack([present[name] for name in single])
        absent &= ~absent.all(dim=0)  # a clip with neither modality keeps both priors
        logs = logs.masked_fill(absent[:, :, None], -torch.inf)
        count = (~absent).sum(dim=0)
        return {"logits": logs.logsumexp(dim=0) - count.log()[:, None], **single}

    def loss(self, outputs: Mapping[str, Tensor], present: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Sum of the two heads' losses."""
        video = self.video.loss({"logits": outputs["video"]}, present, targets)
        audio = self.audio.loss({"logits": outputs["audio"]}, present, targets)
        return video + audio
