"""A picture and a sound as the networks of libraries take them."""

import numpy as np
import torch

from avfuse.features import backbones
from avfuse.features.backbones import Encoded, WeightsChoice
from avfuse.features.backbones.loading import load
from avfuse.features.inputs.resize import resize_and_crop

PIXELS = np.random.default_rng(0).integers(0, 256, (120, 171, 3), dtype=np.uint8)
SAMPLES = np.random.default_rng(1).normal(scale=0.1, size=48_000 * 3).astype(np.float32)


def prepared(name: str, count: int | None = None) -> torch.Tensor:
    """The picture as the backbone takes it, or a clip of it and its reversals."""
    preprocess = backbones.get_backbone(name).preprocess
    assert preprocess is not None
    if count is None:
        return torch.from_numpy(resize_and_crop(PIXELS, preprocess)[None].copy())
    return torch.from_numpy(np.stack([resize_and_crop(frame, preprocess) for frame in frames(count)])[None])


def frames(count: int) -> list[np.ndarray]:
    return [np.roll(PIXELS, 11 * number, axis=1) for number in range(count)]


def encode(name: str, items: torch.Tensor, choice: str = "auto") -> Encoded:
    backbone = backbones.get_backbone(name)
    weights = WeightsChoice.parse(choice).weights_for(name, backbone.checkpoints)
    return load(backbone, weights, "cpu")(items, backbone.preprocess)


def close(ours: torch.Tensor | None, theirs: torch.Tensor, tolerance: float = 5e-3) -> None:
    """Processors resize tensors, avfuse Pillow pictures: here and there a pixel is a level off."""
    assert ours is not None
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() < tolerance * theirs.norm()
