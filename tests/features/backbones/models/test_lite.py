"""The embedded backbone is the published network with its published weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from avfuse.features.backbones import get_backbone
from avfuse.features.backbones.loading import load
from avfuse.features.backbones.models.efficientnet_lite import EfficientNetLite0, SamePadConv2d, fold_batch_norms
from avfuse.features.backbones.weights import find_weights
from avfuse.features.inputs.resize import resize_and_crop

LITE = get_backbone("lite")
ESPRESSO, TABBY_TIGER_EGYPTIAN_CATS = 967, {281, 282, 285}


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(find_weights(LITE.checkpoint).path, weights_only=True))
    return network.eval()


@torch.inference_mode()
def probabilities(network: EfficientNetLite0, photo: np.ndarray) -> torch.Tensor:
    pixels = torch.tensor(resize_and_crop(photo, LITE.preprocess)).permute(2, 0, 1)[None].float()
    return network((pixels - LITE.preprocess.mean[0]) / LITE.preprocess.std[0]).softmax(dim=1)[0]


def test_real_photographs_are_recognised(network: EfficientNetLite0) -> None:
    data = pytest.importorskip("skimage.data")
    coffee, cat = probabilities(network, data.coffee()), probabilities(network, data.cat())
    assert coffee.argmax() == ESPRESSO
    assert coffee[ESPRESSO] > 0.9
    assert set(cat.topk(3).indices.tolist()) == TABBY_TIGER_EGYPTIAN_CATS


def test_it_has_the_published_number_of_parameters(network: EfficientNetLite0) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008


def test_loading_is_strict(network: EfficientNetLite0) -> None:
    state = copy.copy(network.state_dict())
    state.pop("_conv_head.weight")
    with pytest.raises(RuntimeError, match="_conv_head"):
        EfficientNetLite0().load_state_dict(state)


def test_folded_batch_norms_change_nothing(network: EfficientNetLite0) -> None:
    images = torch.randn(2, 3, 224, 224)
    folded = fold_batch_norms(copy.deepcopy(network))
    with torch.inference_mode():
        torch.testing.assert_close(folded.forward_pooled(images), network.forward_pooled(images), rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize(("size", "kernel", "stride"), [(224, 3, 2), (112, 5, 2), (7, 3, 1), (15, 5, 2)])
def test_same_padding_adds_its_odd_pixel_at_the_end(size: int, kernel: int, stride: int) -> None:
    convolution = SamePadConv2d(1, 1, kernel, stride, bias=False)
    nn.init.ones_(convolution.weight)
    output = convolution(torch.ones(1, 1, size, size))[0, 0]
    steps = -(-size // stride)
    total = max((steps - 1) * stride + kernel - size, 0)
    padded = np.pad(np.ones(size), (total // 2, total - total // 2))
    sums = np.array([padded[i * stride : i * stride + kernel].sum() for i in range(steps)])
    np.testing.assert_allclose(output.detach().numpy(), np.outer(sums, sums), rtol=1e-5)


def test_features_are_the_networks_pooled_activations(network: EfficientNetLite0) -> None:
    images = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8)
    encoded = load(LITE, find_weights(LITE.checkpoint), "cpu")(images, LITE.preprocess).pooled
    with torch.inference_mode():
        expected = network.forward_map((images.permute(0, 3, 1, 2).float() - 127) / 128).mean(dim=(2, 3))
    torch.testing.assert_close(encoded, expected, rtol=1e-3, atol=1e-4)


def test_neighbours_in_a_batch_do_not_matter() -> None:
    encode = load(LITE, find_weights(LITE.checkpoint), "cpu")
    images = torch.randint(0, 256, (4, 224, 224, 3), dtype=torch.uint8)
    swapped = images.clone()
    swapped[1:] = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8)
    torch.testing.assert_close(
        encode(images, LITE.preprocess).pooled[0], encode(swapped, LITE.preprocess).pooled[0], rtol=1e-5, atol=1e-6
    )
