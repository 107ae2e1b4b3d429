"""Golden outputs. When one moves, raise the `revision` of what moved, so that cached features never mix, and then
put the new numbers here."""

import numpy as np
import pytest
import torch

from avfuse.features.audio_images import STYLES, Style, maivar, render
from avfuse.features.backbones import get_backbone
from avfuse.features.backbones.loading import load
from avfuse.features.backbones.weights import find_weights
from avfuse.features.inputs import filter_bank

# style: name: (mean red, green, blue; mean of the left half)
IMAGES: dict[Style, dict[str, tuple[tuple[float, float, float], float]]] = {
    "aligned": {
        "waveplot": ((137.73, 183.8, 215.74), 179.15),
        "spectral_centroids": ((208.48, 224.24, 236.64), 223.18),
        "spectral_rolloff": ((208.48, 224.25, 236.66), 223.23),
        "mfcc": ((236.23, 162.12, 139.56), 179.25),
        "mfcc_scaled": ((162.05, 187.58, 245.15), 198.08),
        "chromagram": ((84.43, 83.62, 182.82), 119.19),
    },
    "paper": {
        "waveplot": ((191.63, 216.53, 233.78), 216.46),
        "spectral_centroids": ((232.19, 240.07, 246.28), 240.62),
        "spectral_rolloff": ((232.2, 240.06, 246.26), 240.64),
        "mfcc": ((244.34, 202.53, 189.1), 213.33),
        "mfcc_scaled": ((201.47, 215.9, 248.5), 222.91),
        "chromagram": ((153.52, 153.04, 212.09), 177.16),
    },
}
STRONGEST = {113: 4.828999996185303, 897: 4.763999938964844, 930: 3.989000082015991, 689: 2.688999891281128}
"""lite's strongest activations for a colour gradient: index -> value."""


@pytest.mark.parametrize("style", STYLES)
def test_audio_images_are_those_of_this_revision(style: Style) -> None:
    assert maivar.REVISION == 2
    time = np.arange(2 * 22050) / 22050
    beats = (1 + np.cos(2 * np.pi * 3 * time)) / 2
    images = render(
        (0.5 * np.sin(2 * np.pi * (200 + 300 * time) * time) * beats).astype(np.float32), 22050, style=style
    )
    for name, (colours, left_half) in IMAGES[style].items():
        middle = images[name].shape[1] // 2
        assert images[name].mean(axis=(0, 1)) == pytest.approx(colours, abs=0.1), name
        assert images[name][:, :middle].mean() == pytest.approx(left_half, abs=0.1), name


def test_the_filter_bank_is_that_of_this_revision() -> None:
    assert filter_bank.REVISION == 1
    time = np.arange(2 * 16000) / 16000
    bank = filter_bank.filter_banks([(0.5 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)])[0]
    assert bank[:198].mean() == pytest.approx(-0.9844, abs=1e-3)
    assert bank[100].argmax() == 37


def test_lite_is_that_of_this_revision() -> None:
    lite = get_backbone("lite")
    assert lite.revision == 1
    y, x = np.mgrid[0:224, 0:224]
    gradient = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    vector = load(lite, find_weights(lite.checkpoint), "cpu")(torch.tensor(gradient)[None], lite.preprocess).pooled[0]
    assert vector.norm().item() == pytest.approx(12.59, abs=0.01)
    assert vector.topk(len(STRONGEST)).indices.tolist() == list(STRONGEST)
    assert vector[list(STRONGEST)].tolist() == pytest.approx(list(STRONGEST.values()), abs=5e-3)
