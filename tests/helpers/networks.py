"""The registered backbones, and random inputs for them."""

from typing import Any

import pytest
import torch

from avfuse.features import backbones
from avfuse.features.backbones import Backbone, Encoded
from avfuse.features.backbones.loading import load, noise
from avfuse.features.backbones.weights import RANDOM, Weights

LARGE = {"resnet101", "inception_resnet_v2", "vit", "timesformer", "swin3d", "mvit_v2_s", "ast"}
SMALL = ("lite", "tsn", "resnet18", "efficientnet_b0")
PICTURES = (*SMALL, "resnet101", "inception_resnet_v2", "vit")
CLIPS = ("timesformer", "swin3d", "mvit_v2_s")


def large_ones_are_slow(*cases: Any) -> list[Any]:
    """Cases whose name of a backbone, alone or first, tells whether they take long."""
    names = [case if isinstance(case, str) else case[0] for case in cases]
    rows = [(case,) if isinstance(case, str) else case for case in cases]
    slow = {True: pytest.mark.slow, False: ()}
    return [pytest.param(*case, marks=slow[name in LARGE]) for name, case in zip(names, rows, strict=True)]


def batch(backbone: Backbone, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Random pictures or a random filter bank, as the backbone takes them."""
    torch.manual_seed(seed)
    values = noise(backbone, count)
    if backbone.preprocess is None:
        return values
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.preprocess.mean, backbone.preprocess.std))
    return (values * std + mean).round().to(torch.uint8).movedim(-3, -1)


def seen(backbone: Backbone) -> tuple[int, ...]:
    """The shape of one item as its tokens' grid knows it."""
    if backbone.preprocess is None:
        return (128, 1024)
    return (*backbone.frame_counts[:1], backbone.preprocess.crop, backbone.preprocess.crop)


def normalised(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    assert backbone.preprocess is not None
    mean, std = (torch.tensor(values) for values in (backbone.preprocess.mean, backbone.preprocess.std))
    return ((pixels - mean) / std).movedim(-1, -3)


def encode(name: str, items: torch.Tensor, weights: Weights = RANDOM) -> Encoded:
    return load(backbones.get_backbone(name), weights, "cpu")(items, backbones.get_backbone(name).preprocess)
