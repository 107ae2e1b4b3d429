"""Concatenation and an MLP: MAiVAR's fusion network (arXiv 2209.04780, section III-C and Algorithm 1)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.config import Settings
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.audio import AudioOnly
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.blocks import mlp
from avfuse.stages.fuse.heads.video import VideoOnly, VideoOptions

_SMALL = 0.01


class MlpFusionOptions(VideoOptions):
    """Fusion of the modalities, and initialisation."""

    fusion: Literal["concat", "sum"] = "concat"
    """Concatenation, or equation 3 as printed, x + z, with a linear layer from the audio's width to the video's."""
    init: Literal["random", "video"] = "random"
    """video: Algorithm 1, training starts from the trained `video` head of the same seed."""
    audio_block: Literal["zero", "small", "audio_mlp"] = "zero"
    """Initial weights of the audio inputs, which Algorithm 1 leaves open: zero, so that the net starts as the video
    net; `small`, a hundredth of the usual initialisation; or those of the first layer of the trained `audio` head."""
    init_lr: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the parent heads; None: their own."""


@register_head("mlp", modalities=("video", "audio"), summary="mean video frame and all audio images, concatenated, MLP")
class MlpFusion(Head):
    """[video ; audio] -> MLP -> logits, where video is the mean frame or all frames side by side, and audio all images
    side by side (of a grid of tokens, its CLS or mean)."""

    class Options(MlpFusionOptions):
        """Sizes, layout of the frames, fusion, initialisation."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: MlpFusionOptions) -> None:
        video_flat, audio_flat = options.video == "flatten", shapes["audio"].grid is None
        super().__init__(
            shapes,
            targets,
            {"video": "flatten" if video_flat else "pooled", "audio": "flatten" if audio_flat else "pooled"},
        )
        self.options = options
        video, audio = self.input("video").width, self.input("audio").width
        self.bring = nn.Linear(audio, video, bias=False) if options.fusion == "sum" else None
        self.classifier = mlp(video if self.bring else video + audio, targets.width, options)

    @classmethod
    def parents(cls, options: Settings) -> dict[str, Settings]:
        assert isinstance(options, MlpFusionOptions)
        if options.init == "random":
            return {}
        video = VideoOnly.Options(hidden=options.hidden, dropout=options.dropout, video=options.video)
        if options.audio_block == "audio_mlp":
            if options.fusion == "sum":
                raise UsageError("audio_block=audio_mlp has no place in fusion=sum: take zero or small, or concat")
            return {"video": video, "audio": AudioOnly.Options(hidden=options.hidden, dropout=options.dropout)}
        return {"video": video}

    @classmethod
    def parent_recipe_overrides(cls, options: Settings) -> dict[str, float]:
        assert isinstance(options, MlpFusionOptions)
        return {} if options.init_lr is None else {"lr": options.init_lr}

    @torch.no_grad()
    def init_from_parents(self, parents: Mapping[str, Head]) -> None:
        """Algorithm 1: the video net's layers; weights of the audio inputs by `audio_block`."""
        if not parents:
            return
        video = parents["video"]
        assert isinstance(video, VideoOnly)
        own, learned = self.classifier.state_dict(), video.classifier.state_dict()
        self.input("video").absent.copy_(video.input("video").absent)
        if self.bring is not None:
            self.bring.weight.mul_(0 if self.options.audio_block == "zero" else _SMALL)
            self.classifier.load_state_dict(learned)
            return
        audio_weights = own["0.weight"][:, learned["0.weight"].shape[1] :]
        if self.options.audio_block == "audio_mlp":
            audio = parents["audio"]
            assert isinstance(audio, AudioOnly)
            audio_weights = audio.classifier.state_dict()["0.weight"]
            self.input("audio").absent.copy_(audio.input("audio").absent)
        else:
            audio_weights = audio_weights * (0 if self.options.audio_block == "zero" else _SMALL)
        self.classifier.load_state_dict({**learned, "0.weight": torch.cat([learned["0.weight"], audio_weights], dim=1)})

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        inputs = self.fill_missing(prepared, present)
        if self.bring is not None:
            return {"logits": self.classifier(inputs["video"] + self.bring(inputs["audio"]))}
        return {"logits": self.classifier(torch.cat([inputs["video"], inputs["audio"]], dim=1))}
