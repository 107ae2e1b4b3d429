"""Video networks of torchvision, trained on Kinetics-400: Video Swin and MViTv2."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avfuse.features.backbones.models.image_models import drop_prefixes
from avfuse.features.backbones.registry import Backbone, Encoded, Grid, register
from avfuse.features.backbones.weights import Checkpoint, Url
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

_GREY_MEAN, _GREY_STD = (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _video_preprocess(mean: tuple[float, float, float], std: tuple[float, float, float]) -> Preprocess:
    """torchvision's checkpoints were trained on videos resized without antialiasing."""
    return Preprocess(resize=256, crop=224, interpolation="bilinear", antialias=False, mean=mean, std=std)


def _torchvision(architecture: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision
        from torch import nn

        network: nn.Module = torchvision.models.get_model(architecture, weights=None)
        network.head = nn.Identity()
        return network

    return make


def _kinetics_checkpoint(name: str, file: str, sha256: str) -> Checkpoint:
    return Checkpoint(
        name=name,
        file=file,
        licence="BSD-3-Clause",
        source=Url(f"https://download.pytorch.org/models/{file}"),
        sha256=sha256,
    )


def _swin_tokens(network: Any, clips: Tensor) -> Encoded:
    cells = network.patch_embed(clips.transpose(1, 2))
    cells = network.norm(network.features(network.pos_drop(cells)))  # (B, T / 2, H / 32, W / 32, D)
    tokens = cells.flatten(1, 3)
    return Encoded(tokens.mean(dim=1), tokens)


SWIN3D = register(
    Backbone(
        name="swin3d",
        revision=1,
        inputs=("clip",),
        feature_dim=1024,
        preprocess=_video_preprocess(_IMAGENET_MEAN, _IMAGENET_STD),
        checkpoints=(_kinetics_checkpoint("swin3d-k400", "swin3d_b_1k-24f7c7c6.pth", "24f7c7c6"),),
        make=_torchvision("swin3d_b"),
        translate=drop_prefixes("head."),
        encode=_swin_tokens,
        grid=lambda shape: Grid((shape[0] // 2, shape[1] // 32, shape[2] // 32), pooled=3),
        frame_counts=(16, 32),
        sampling="uniform:16",
    )
)


def _mvit_tokens(network: Any, clips: Tensor) -> Encoded:
    tokens = network.conv_proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2)
    tokens = network.pos_encoding(tokens)
    size = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
    for block in network.blocks:
        tokens, size = block(tokens, size)
    tokens = network.norm(tokens)
    return Encoded(tokens[:, 0], tokens)


MVIT = register(
    Backbone(
        name="mvit_v2_s",
        revision=1,
        inputs=("clip",),
        feature_dim=768,
        preprocess=_video_preprocess(_GREY_MEAN, _GREY_STD),
        checkpoints=(
            _kinetics_checkpoint(
                "mvit_v2_s-k400",
                "mvit_v2_s-ae3be167.pth",
                "ae3be16733081f6d1cd40e4ab980ca23d6df6dc6486d15ada05a5e8ab8c9b975",
            ),
        ),
        make=_torchvision("mvit_v2_s"),
        translate=drop_prefixes("head."),
        encode=_mvit_tokens,
        grid=lambda shape: Grid((shape[0] // 2, shape[1] // 32, shape[2] // 32), prefix=1, pooled=3),
        frame_counts=(16,),
        sampling="uniform:16",
    )
)
