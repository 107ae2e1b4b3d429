"""`tsn`: BN-Inception as in Temporal Segment Networks, one vector per frame.

Wang et al., "Temporal Segment Networks" (2016). Loads the checkpoints of yjxiong and of Cadene.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avfuse.features.backbones.registry import Backbone, StateDict, feature_map_grid, from_feature_map, register
from avfuse.features.backbones.weights import Checkpoint, Url
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from torch import nn

_CLASSIFIERS = ("new_fc.", "fc.", "fc_action.", "last_linear.")


def _make() -> nn.Module:
    from avfuse.features.backbones.models.bninception import BNInception

    return BNInception()


def _translate(state: StateDict) -> StateDict:
    """Drop the classifier and the wrapper's prefix; squeeze old batch-norm tensors of shape (1, C)."""
    translated = {}
    for name, tensor in state.items():
        name = name.removeprefix("base_model.")
        if not name.startswith(_CLASSIFIERS):
            translated[name] = tensor.squeeze(0) if "_bn." in name and tensor.ndim == 2 else tensor
    return translated


TSN = register(
    Backbone(
        name="tsn",
        revision=1,
        inputs=("frames",),
        feature_dim=1024,
        # The network takes BGR, which `encode` makes of RGB: mean and std are in RGB order.
        preprocess=Preprocess(
            resize=256, crop=224, interpolation="bilinear", mean=(128.0, 117.0, 104.0), std=(1.0, 1.0, 1.0)
        ),
        checkpoints=(
            Checkpoint(
                name="tsn-kinetics",
                file="bninception_rgb_kinetics_init-d4ee618d3399.pth",
                licence="not stated",
                source=Url(
                    "https://yjxiong.blob.core.windows.net/ssn-models/bninception_rgb_kinetics_init-d4ee618d3399.pth"
                ),
                sha256="d4ee618d3399",
            ),
            Checkpoint(
                name="tsn-imagenet",
                file="bn_inception-9f5701afb96c8044.pth",
                licence="not stated",
                source=Url("https://yjxiong.blob.core.windows.net/models/bn_inception-9f5701afb96c8044.pth"),
                sha256="9f5701afb96c8044",
            ),
            Checkpoint(
                name="tsn-imagenet-cadene",
                file="bn_inception-52deb4733.pth",
                licence="not stated",
                source=Url("http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"),
                sha256="52deb473314542a5c2f87e9e6f26f4ca42fe863d15f986414dbae8c2dfdd2353",
            ),
        ),
        make=_make,
        translate=_translate,
        encode=lambda network, images: from_feature_map(network.forward_map(images.flip(1))),
        grid=feature_map_grid,
    )
)
