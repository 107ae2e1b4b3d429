"""Image networks of timm and torchvision, without their classifiers: the feature is the classifier's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from avfuse.features.backbones.registry import Backbone, Encoded, Grid, StateDict, from_feature_map, register
from avfuse.features.backbones.weights import Checkpoint, Hub, Url
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

_HALF = (127.5, 127.5, 127.5)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def drop_prefixes(*prefixes: str) -> Callable[[StateDict], StateDict]:
    """A `translate` that drops tensors by the start of their names, such as a classifier's."""
    return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _timm(architecture: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0)
        return network

    return make


def _hub_checkpoint(name: str, repository: str, revision: str, sha256: str) -> Checkpoint:
    file = f"{repository.rpartition('/')[2]}.safetensors"
    return Checkpoint(name=name, file=file, licence="Apache-2.0", source=Hub(repository, revision), sha256=sha256)


def _vit_tokens(network: Any, images: Tensor) -> Encoded:
    tokens = network.forward_features(images)
    return Encoded(tokens[:, 0], tokens)


INCEPTION_RESNET_V2 = register(
    Backbone(
        name="inception_resnet_v2",
        revision=1,
        inputs=("frames", "image"),
        feature_dim=1536,
        preprocess=Preprocess(resize=333, crop=299, interpolation="bicubic", mean=_HALF, std=_HALF),
        checkpoints=(
            _hub_checkpoint(
                "inception_resnet_v2-imagenet",
                "timm/inception_resnet_v2.tf_in1k",
                "548a334e1afd3b398b4be37c89972dfb24d707aa",
                "dbea26b13a5fc8351919fed6a94222c0577ce324b2765fd081a798f837ca9d72",
            ),
        ),
        make=_timm("inception_resnet_v2"),
        translate=drop_prefixes("classif."),
        encode=lambda network, images: from_feature_map(network.forward_features(images)),
        grid=lambda shape: Grid(((shape[0] - 43) // 32, (shape[1] - 43) // 32)),  # its convolutions are not padded
    )
)

VIT = register(
    Backbone(
        name="vit",
        revision=1,
        inputs=("frames", "image"),
        feature_dim=768,
        preprocess=Preprocess(resize=248, crop=224, interpolation="bicubic", mean=_HALF, std=_HALF),
        checkpoints=(
            _hub_checkpoint(
                "vit-imagenet21k-1k",
                "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
                "2ec9fb3d7bb664aac471ac44582c94d18de33780",
                "c401d219603ac3e20b6373c7b198c78d3a733f80b755d148bda3bc320ae69800",
            ),
        ),
        make=_timm("vit_base_patch16_224"),
        translate=drop_prefixes("head."),
        encode=_vit_tokens,
        grid=lambda shape: Grid((shape[0] // 16, shape[1] // 16), prefix=1),
    )
)


def _torchvision(
    name: str, classifier: str, dim: int, file: str, sha256: str, interpolation: Literal["bilinear", "bicubic"]
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
        source=Url(f"https://download.pytorch.org/models/{file}"),
        sha256=sha256,
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
        translate=drop_prefixes(f"{classifier}."),
        encode=lambda network, images: Encoded(network(images)),
    )


RESNET18 = register(
    _torchvision(
        "resnet18",
        "fc",
        512,
        "resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        "bilinear",
    )
)
RESNET101 = register(
    _torchvision(
        "resnet101",
        "fc",
        2048,
        "resnet101-63fe2227.pth",
        "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
        "bilinear",
    )
)
EFFICIENTNET_B0 = register(
    _torchvision(
        "efficientnet_b0",
        "classifier",
        1280,
        "efficientnet_b0_rwightman-7f5810bc.pth",
        "7f5810bc96def8f7552d5b7e68d53c4786f81167d28291b21c0d90e1fca14934",
        "bicubic",
    )
)
