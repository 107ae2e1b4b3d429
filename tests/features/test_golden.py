"""Golden outputs. When one moves, raise the `revision` of what moved, so that cached features never mix, and then
put the new numbers here."""

import numpy as np
import pytest
import torch

from features.audio_images import REPRESENTATION_REVISION, render
from features.backbones import get

# name: (mean red, green, blue; mean of the left half)
IMAGES = {
    "waveplot": ((137.73, 183.8, 215.74), 179.15),
    "spectral_centroids": ((208.48, 224.18, 236.59), 223.1),
    "spectral_rolloff": ((208.48, 224.2, 236.61), 223.13),
    "mfcc": ((236.26, 162.11, 139.53), 179.22),
    "mfcc_scaled": ((162.13, 187.55, 245.04), 198.08),
    "chromagram": ((84.63, 83.65, 182.72), 119.25),
}
STRONGEST = {113: 4.828999996185303, 897: 4.763999938964844, 930: 3.989000082015991, 689: 2.688999891281128}
"""lite's strongest activations for a colour gradient: index -> value."""


def test_audio_images_are_those_of_this_revision() -> None:
    assert REPRESENTATION_REVISION == 1
    time = np.arange(2 * 22050) / 22050
    beats = (1 + np.cos(2 * np.pi * 3 * time)) / 2
    images = render((0.5 * np.sin(2 * np.pi * (200 + 300 * time) * time) * beats).astype(np.float32), 22050)
    for name, (colours, left_half) in IMAGES.items():
        assert images[name].mean(axis=(0, 1)) == pytest.approx(colours, abs=0.1), name
        assert images[name][:, :112].mean() == pytest.approx(left_half, abs=0.1), name


def test_lite_is_that_of_this_revision() -> None:
    lite = get("lite")
    assert lite.revision == 1
    y, x = np.mgrid[0:224, 0:224]
    gradient = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    vector = lite.load("cpu")(torch.tensor(gradient)[None])[0]
    assert vector.norm().item() == pytest.approx(12.59, abs=0.01)
    assert vector.topk(len(STRONGEST)).indices.tolist() == list(STRONGEST)
    assert vector[list(STRONGEST)].tolist() == pytest.approx(list(STRONGEST.values()), abs=5e-3)
