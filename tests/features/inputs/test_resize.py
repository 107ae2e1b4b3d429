"""Pixels reach a backbone as the library that defines it would have handed them over."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from avfuse.features import backbones
from avfuse.features.backbones import Backbone
from avfuse.features.inputs.resize import resize_and_crop
from avfuse.features.spec import Preprocess

SIZES = [(240, 320), (568, 320), (256, 256), (50, 50), (360, 480), (1080, 1920), (239, 321), (97, 301)]


def frame(height: int, width: int) -> np.ndarray:
    """Noise over a slope: every pixel that is off shows."""
    noise = np.random.default_rng(height).integers(0, 128, (height, width, 3))
    return (noise + np.linspace(0, 127, width).astype(int)[None, :, None]).astype(np.uint8)


def normalised(backbone: Backbone, pixels: np.ndarray) -> np.ndarray:
    assert backbone.preprocess is not None
    mean, std = (np.array(values, dtype=np.float32) for values in (backbone.preprocess.mean, backbone.preprocess.std))
    return ((resize_and_crop(pixels, backbone.preprocess) - mean) / std).transpose(2, 0, 1)


def same_but_for_halves(ours: np.ndarray, theirs: np.ndarray, share: float = 1e-4) -> None:
    """Levels 0-255, equal but where a value half-way between two was rounded the other way."""
    difference = np.abs(ours.astype(float) - theirs)
    assert difference.max() < 1.01
    assert (difference > 0.5).mean() < share


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_resize_and_crop_are_torchvisions(height: int, width: int, interpolation: str) -> None:
    pixels = frame(height, width)
    preprocess = Preprocess(resize=256, crop=224, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1))
    mode = functional.InterpolationMode(interpolation)
    resized = functional.resize(Image.fromarray(pixels), [256], interpolation=mode)
    expected = np.asarray(functional.center_crop(resized, [224, 224]))
    np.testing.assert_array_equal(resize_and_crop(pixels, preprocess), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_without_antialiasing_it_is_torchvisions_of_tensors(height: int, width: int) -> None:
    pixels = frame(height, width)
    preprocess = Preprocess(
        resize=256, crop=224, interpolation="bilinear", antialias=False, mean=(0, 0, 0), std=(1, 1, 1)
    )
    resized = functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), [256], antialias=False)
    expected = functional.center_crop(resized, [224, 224]).permute(1, 2, 0).numpy()
    same_but_for_halves(resize_and_crop(pixels, preprocess), expected)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "ResNet18_Weights.IMAGENET1K_V1"),
        ("resnet101", "ResNet101_Weights.IMAGENET1K_V1"),
        ("efficientnet_b0", "EfficientNet_B0_Weights.IMAGENET1K_V1"),
    ],
)
@pytest.mark.parametrize(("height", "width"), SIZES[:3])
def test_torchvisions_pictures_are_prepared_as_it_does(name: str, weights: str, height: int, width: int) -> None:
    import torchvision

    pixels = frame(height, width)
    expected = torchvision.models.get_weight(weights).transforms()(Image.fromarray(pixels)).numpy()
    np.testing.assert_allclose(normalised(backbones.get_backbone(name), pixels), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("swin3d", "Swin3D_B_Weights.KINETICS400_V1"), ("mvit_v2_s", "MViT_V2_S_Weights.KINETICS400_V1")],
)
@pytest.mark.parametrize(("height", "width"), SIZES[:3])
def test_torchvisions_clips_are_prepared_as_it_does(name: str, weights: str, height: int, width: int) -> None:
    import torchvision

    clip = np.stack([frame(height, width), frame(height, width)[::-1]])
    transform = torchvision.models.get_weight(weights).transforms()
    expected = transform(torch.from_numpy(clip).permute(0, 3, 1, 2)).transpose(0, 1).numpy()
    ours = np.stack([normalised(backbones.get_backbone(name), frame) for frame in clip])
    std = np.array(transform.std).reshape(1, 3, 1, 1)
    same_but_for_halves(255 * std * ours, 255 * std * expected)


@pytest.mark.parametrize("name", ["vit", "inception_resnet_v2"])
@pytest.mark.parametrize(("height", "width"), SIZES[:3])
def test_timms_pictures_are_prepared_as_it_does(name: str, height: int, width: int) -> None:
    import timm

    tag = {
        "vit": "vit_base_patch16_224.augreg_in21k_ft_in1k",
        "inception_resnet_v2": "inception_resnet_v2.tf_in1k",
    }[name]
    config = timm.get_pretrained_cfg(tag).to_dict()
    expected = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    pixels = frame(height, width)
    np.testing.assert_allclose(
        normalised(backbones.get_backbone(name), pixels), expected(Image.fromarray(pixels)).numpy(), atol=2e-6
    )


@pytest.mark.parametrize(("height", "width"), [*SIZES, (480, 853)])
def test_timesformers_frames_are_prepared_as_its_processor_does(height: int, width: int) -> None:
    """The published configuration. The processor resizes tensors, whose resampling may round a value the other way."""
    import transformers

    processor = transformers.VideoMAEImageProcessor(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.45] * 3,
        image_std=[0.225] * 3,
        resample=2,
    )
    pixels = frame(height, width)
    expected = np.asarray(processor([pixels], return_tensors="np")["pixel_values"]).reshape(3, 224, 224)
    ours = normalised(backbones.get_backbone("timesformer"), pixels)
    same_but_for_halves(255 * 0.225 * ours, 255 * 0.225 * expected, share=0.005)
