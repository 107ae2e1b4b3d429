"""A backbone's features on the device are those of the CPU, within the rounding of the precision asked for.

`lite` has its real weights; the others have random ones, whose features are marked as untrained wherever they show.
"""

import copy
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avfuse.features import backbones
from avfuse.features.backbones import Encoded, WeightsChoice, loading
from avfuse.features.backbones.loading import load, noise
from avfuse.features.spec import Precision

WEIGHTS = WeightsChoice("random", (("lite", "auto"),))
ITEMS = 2
PRECISIONS = ("float32", "bfloat16", "float16")
QUICK = ("lite",)
"""Enough of them where only the checks are checked."""

SINGLE = 2e-4
"""Relative error of float32: ten times what the order of sums moves in the deepest networks, and a fifth of what TF32's
rounding would."""

HALF = {"lite": 0.2, "tsn": 0.2, "resnet101": 0.4, "efficientnet_b0": 0.2, "inception_resnet_v2": 0.06}
"""Of bfloat16 in deep convolutional networks: twice what a CPU's is (docs/benchmarks.md, half precision)."""
HALF_ELSEWHERE = 0.05
FLOAT16_IS_FINER = 4
"""float16 has eight times bfloat16's digits; its kernels may round where a CPU's do not."""
TOKENS_ARE_ROUGHER = 3
"""Pooling averages errors away."""

REAL_MAKE = loading.make


@lru_cache(maxsize=1)
def made(name: str) -> nn.Module:
    return REAL_MAKE(backbones.get_backbone(name))


@pytest.fixture(autouse=True)
def _made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights take longer to draw than a GPU takes for the rest."""
    monkeypatch.setattr(loading, "make", lambda backbone: copy.deepcopy(made(backbone.name)))


@lru_cache(maxsize=1)
def items_of(name: str) -> torch.Tensor:
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    items = noise(backbones.get_backbone(name), ITEMS)
    torch.set_rng_state(generator_state)
    return items


@lru_cache(maxsize=1)
def reference(name: str) -> Encoded:
    return encoded(name, "cpu", "float32")


def encoded(name: str, device: str, precision: Precision) -> Encoded:
    backbone = backbones.get_backbone(name)
    network = load(backbone, WEIGHTS.weights_for(name, backbone.checkpoints), device, precision)
    return network(items_of(name), None)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest over items."""
    found, expected = found.float().cpu().flatten(1), expected.float().flatten(1)
    return ((found - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


def tolerance(name: str, precision: Precision) -> float:
    if precision == "float32":
        return SINGLE
    bfloat16 = HALF.get(name, HALF_ELSEWHERE)
    return bfloat16 if precision == "bfloat16" else bfloat16 / FLOAT16_IS_FINER


def case(name: str, precision: str) -> Any:
    quick = name in QUICK and precision == "float32"  # CPUs crawl in halves
    return pytest.param(name, precision, marks=() if quick else pytest.mark.slow, id=f"{name}-{precision}")


@pytest.mark.parametrize(
    ("name", "precision"), [case(*each) for each in product(backbones.list_backbones(), PRECISIONS)]
)
def test_features_on_the_device_are_those_of_the_cpu(
    name: str, precision: Precision, device: str, record_property: Callable[[str, object], None]
) -> None:
    found, expected = encoded(name, device, precision), reference(name)
    assert found.pooled.device == torch.device(device)
    assert torch.isfinite(found.pooled).all()
    error = relative_error(found.pooled, expected.pooled)
    record_property("relative_error", error)
    assert error < tolerance(name, precision)
    assert (found.tokens is None) == (expected.tokens is None)
    if found.tokens is not None and expected.tokens is not None:
        rougher = 1 if precision == "float32" else TOKENS_ARE_ROUGHER
        assert relative_error(found.tokens, expected.tokens) < rougher * tolerance(name, precision)


def test_pictures_are_normalised_on_the_device_as_on_the_cpu(device: str) -> None:
    lite = backbones.get_backbone("lite")
    pictures = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights = WEIGHTS.weights_for("lite", lite.checkpoints)
    found, expected = (load(lite, weights, each)(pictures, lite.preprocess).pooled for each in (device, "cpu"))
    assert relative_error(found, expected) < SINGLE


@pytest.mark.parametrize("operation", ["product", "convolution"])
def test_float32_is_not_rounded_to_tf32(operation: str, device: str) -> None:
    """It is for convolutions where nobody objects, and three decimals are what is left then."""
    encoded("lite", device, "float32")  # objects
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(64, 256, generator=generator, dtype=torch.float64)
    other = torch.randn(256, 256, generator=generator, dtype=torch.float64)
    if operation == "product":
        exact, found = one @ other, one.float().to(device) @ other.float().to(device)
    else:
        pictures, filters = one.view(4, 16, 16, 16), other.view(-1, 16, 4, 4)
        exact = F.conv2d(pictures, filters)
        found = F.conv2d(pictures.float().to(device), filters.float().to(device))
    assert relative_error(found, exact) < 1e-5
