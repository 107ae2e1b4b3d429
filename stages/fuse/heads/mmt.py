"""The Multiscale Multimodal Transformer: a multiscale audio encoder, then AVT's bottleneck (arXiv 2401.04023)."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.blocks import TokenProjection
from avfuse.stages.fuse.heads.bottleneck import AVBottleneck, BottleneckOptions
from avfuse.stages.fuse.heads.mat import bank_encoder
from avfuse.stages.fuse.heads.mat_lite import grid_encoder
from avfuse.stages.fuse.heads.multiscale import RECIPE, MultiscaleOptions, MultiscaleTransformer

_ENCODERS: Mapping[str, Callable[[ModalityShape, MultiscaleOptions, str], MultiscaleTransformer]] = {
    "mat_lite": grid_encoder,
    "mat": bank_encoder,
}


class MMTOptions(BottleneckOptions, MultiscaleOptions):
    """Audio encoder, and the bottleneck."""

    encoder: Literal["mat_lite", "mat"] = "mat_lite"
    """`mat_lite` on a grid of cached tokens, or `mat` on the filter bank, from scratch."""


@register_head("mmt", modalities=("video", "audio"), summary="sound through MAT or MAT-lite, then the bottleneck (MMT)")
class MMT(Head):
    """Audio through a multiscale encoder to a few tokens, these and the video's through `AVBottleneck`; [V' ; A'] -> LN
    -> Linear, of the video its CLS where it has one, else the mean, of the sound the mean.

    `before_audio` is the encoder's pooled output at the bottleneck's width, so contrast trains the encoder too. There
    are no `tokens_video` and `tokens_audio`: audio tokens are pooled cells, from which masked cells cannot be
    reconstructed.
    """

    class Options(MMTOptions):
        """Encoder, pooling, stochastic depth; sizes, shared tokens, blocks, update."""

    recipe = RECIPE
    evaluation_batch_size = 64
    accepts_filter_bank = True

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: MMTOptions) -> None:
        whose = f"head '{self.name}' with encoder={options.encoder}"
        encoder = _ENCODERS[options.encoder](shapes["audio"], options, whose)
        super().__init__(shapes, targets, unstandardised=("audio",) if shapes["audio"].raw else ())
        self.encode = encoder
        self.narrow = nn.Linear(encoder.dim, options.dim)
        self.project = TokenProjection({"video": self.shapes["video"]}, options.dim)
        self.exchange = AVBottleneck(options)
        self.classifier = nn.Sequential(nn.LayerNorm(2 * options.dim), nn.Linear(2 * options.dim, targets.width))

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        inputs = self.fill_missing(prepared, present)
        before = self.project({"video": inputs["video"]})["video"]
        encoded = self.encode(inputs["audio"][:, self.shapes["audio"].prefix :])
        video, audio = self.exchange(before, self.narrow(encoded.tokens))
        of_video, of_audio = self.shapes["video"].pool(video), audio.mean(dim=1)
        return {
            "logits": self.classifier(torch.cat([of_video, of_audio], dim=1)),
            "before_video": self.shapes["video"].pool(before),
            "before_audio": self.narrow(encoded.pooled),
            "after_video": of_video,
            "after_audio": of_audio,
        }
