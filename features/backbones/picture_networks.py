"""Networks of timm and torchvision for single pictures. Their classifier is left out: what it would have seen is the
feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from features.backbones.registry import Backbone, Encoded, Grid, StateDict, of_map, register
from features.backbones.weights import Address, Checkpoint, Hub
from features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

_HALF = (127.5, 127.5, 127.5)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def without(*prefixes: str) -> Callable[[StateDict], StateDict]:
    """A checkpoint's tensors but those of a classifier."""
    return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _timm(architecture: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0)
        return network

    return make


def _hub_checkpoint(name: str, repository: str) -> Checkpoint:
    file = f"{repository.rpartition('/')[2]}.safetensors"
    return Checkpoint(name=name, file=file, licence="Apache-2.0", source=Hub(repository))


def _vit_tokens(network: Any, pictures: Tensor) -> Encoded:
    tokens = network.forward_features(pictures)
    return Encoded(tokens[:, 0], tokens)


INCEPTION_RESNET_V2 = register(
    Backbone(
        name="inception_resnet_v2",
        revision=1,
        inputs=("frames", "image"),
        feature_dim=1536,
        preprocess=Preprocess(resize=333, crop=299, interpolation="bicubic", mean=_HALF, std=_HALF),
        checkpoints=(_hub_checkpoint("inception_resnet_v2-imagenet", "timm/inception_resnet_v2.tf_in1k"),),
        make=_timm("inception_resnet_v2"),
        translate=without("classif."),
        encode=lambda network, pictures: of_map(network.forward_features(pictures)),
        grid=lambda side, frames: Grid(((side - 43) // 32, (side - 43) // 32)),  # its convolutions are not padded
    )
)

VIT = register(
    Backbone(
        name="vit",
        revision=1,
        inputs=("frames", "image"),
        feature_dim=768,
        preprocess=Preprocess(resize=248, crop=224, interpolation="bicubic", mean=_HALF, std=_HALF),
        checkpoints=(_hub_checkpoint("vit-imagenet21k-1k", "timm/vit_base_patch16_224.augreg_in21k_ft_in1k"),),
        make=_timm("vit_base_patch16_224"),
        translate=without("head."),
        encode=_vit_tokens,
        grid=lambda side, frames: Grid((side // 16, side // 16), prefix=1),
    )
)


def _torchvision(
    name: str, classifier: str, dim: int, file: str, interpolation: Literal["bilinear", "bicubic"]
) -> Backbone:
    def make() -> nn.Module:
        import torchvision
        from torch import nn

        network: nn.Module = torchvision.models.get_model(name, weights=None)
        setattr(network, classifier, nn.Identity())
        return network

    checkpoint = Checkpoint(
        name=f"{name}-imagenet",
        file=file,
        licence="BSD-3-Clause",
        source=Address(f"https://download.pytorch.org/models/{file}"),
        sha256=file.rpartition("-")[2].partition(".")[0],
    )
    return Backbone(
        name=name,
        revision=1,
        inputs=("frames", "image"),
        feature_dim=dim,
        preprocess=Preprocess(
            resize=256, crop=224, interpolation=interpolation, mean=_IMAGENET_MEAN, std=_IMAGENET_STD
        ),
        checkpoints=(checkpoint,),
        make=make,
        translate=without(f"{classifier}."),
        encode=lambda network, pictures: Encoded(network(pictures)),
    )


RESNET18 = register(_torchvision("resnet18", "fc", 512, "resnet18-f37072fd.pth", "bilinear"))
RESNET101 = register(_torchvision("resnet101", "fc", 2048, "resnet101-63fe2227.pth", "bilinear"))
EFFICIENTNET_B0 = register(
    _torchvision("efficientnet_b0", "classifier", 1280, "efficientnet_b0_rwightman-7f5810bc.pth", "bicubic")
)
