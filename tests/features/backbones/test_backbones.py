"""Backbones give what the libraries that define them give, from the same weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import batch, encode, large_ones_are_slow, normalised
from safetensors.torch import save_file

from avfuse.features import backbones
from avfuse.features.backbones.loading import calibrate_batch_norms, load, make, noise
from avfuse.features.backbones.weights import RANDOM, Weights, file_sha256
from avfuse.features.inputs.filter_bank import filter_banks
from avfuse.features.inputs.resize import resize_and_crop


@pytest.fixture(scope="module")
def their_bninception() -> torch.nn.Module:
    pytest.importorskip("pretrainedmodels")
    module = sys.modules["pretrainedmodels.models.bninception"]
    torch.manual_seed(0)
    network = module.BNInception().eval()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.5)
    return network


@pytest.mark.slow
@torch.inference_mode()
def test_tsn_is_bninception(their_bninception: torch.nn.Module, tmp_path: Path) -> None:
    """Cadene's layout, with its classifier, loads strictly and gives its features."""
    path = tmp_path / "bn_inception.pth"
    torch.save(their_bninception.state_dict(), path)
    pixels = batch(backbones.get_backbone("tsn"))
    encoded = encode("tsn", pixels, Weights(path, file_sha256(path)))
    bgr = pixels.flip(-1) - torch.tensor([104.0, 117.0, 128.0])
    expected = their_bninception.features(bgr.permute(0, 3, 1, 2))
    assert expected.std() > 0.05
    torch.testing.assert_close(encoded.pooled, expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoded.tokens, expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_tsn_loads_the_layout_of_its_authors(their_bninception: torch.nn.Module, tmp_path: Path) -> None:
    """yjxiong's files: under `state_dict`, wrapped, with batch-norm tensors of shape (1, C) and a `new_fc`."""
    state = {}
    for name, tensor in their_bninception.state_dict().items():
        if not name.startswith("last_linear"):
            old = "_bn." in name and tensor.ndim == 1
            state[f"module.base_model.{name}"] = tensor[None] if old else tensor
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    state["module.new_fc.weight"] = torch.zeros(400, 1024)
    path = tmp_path / "tsn.pth"
    torch.save({"state_dict": state, "epoch": 80}, path)
    plain = tmp_path / "plain.pth"
    torch.save(their_bninception.state_dict(), plain)
    pixels = batch(backbones.get_backbone("tsn"), 1)
    reference, ours = (encode("tsn", pixels, Weights(each, file_sha256(each))).pooled for each in (path, plain))
    torch.testing.assert_close(reference, ours)


@pytest.mark.parametrize("name", large_ones_are_slow("inception_resnet_v2", "vit"))
@torch.inference_mode()
def test_timms_networks_are_timms(name: str, tmp_path: Path) -> None:
    import timm

    architecture = {"vit": "vit_base_patch16_224"}.get(name, name)
    reference = timm.create_model(architecture, pretrained=False)  # with its classifier, as published
    calibrate_batch_norms(reference, lambda: reference(noise(backbones.get_backbone(name))))
    reference.eval()
    path = tmp_path / "model.safetensors"
    save_file(reference.state_dict(), path)
    pixels = batch(backbones.get_backbone(name), 1)
    encoded = encode(name, pixels, Weights(path, file_sha256(path)))
    features = reference.forward_features(normalised(backbones.get_backbone(name), pixels))
    expected = reference.forward_head(features, pre_logits=True)
    assert expected.std() > 0.05
    assert (encoded.pooled - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "architecture", "classifier"),
    large_ones_are_slow(
        ("resnet18", "resnet18", "fc"),
        ("resnet101", "resnet101", "fc"),
        ("efficientnet_b0", "efficientnet_b0", "classifier"),
        ("mvit_v2_s", "mvit_v2_s", "head"),
        ("swin3d", "swin3d_b", "head"),
    ),
)
@torch.inference_mode()
def test_torchvisions_networks_are_torchvisions(name: str, architecture: str, classifier: str, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(1)
    reference = torchvision.models.get_model(architecture, weights=None)
    calibrate_batch_norms(reference, lambda: reference(noise(backbones.get_backbone(name))))
    reference.eval()
    path = tmp_path / "model.pth"
    torch.save(reference.state_dict(), path)
    pixels = batch(backbones.get_backbone(name), 1)
    encoded = encode(name, pixels, Weights(path, file_sha256(path)))
    setattr(reference, classifier, torch.nn.Identity())
    inputs = normalised(backbones.get_backbone(name), pixels)
    expected = reference(inputs.transpose(1, 2) if inputs.ndim == 5 else inputs)
    assert expected.std() > 0.05
    assert (encoded.pooled - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", large_ones_are_slow("ast", "timesformer"))
@torch.inference_mode()
def test_transformers_networks_are_transformers(name: str, tmp_path: Path) -> None:
    """A hub checkpoint holds the encoder under its own name beside a classifier."""
    import transformers

    torch.manual_seed(1)
    if name == "ast":
        reference = transformers.ASTForAudioClassification(transformers.ASTConfig()).eval()
        inner = reference.audio_spectrogram_transformer
    else:
        reference = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig()).eval()
        inner = reference.timesformer
    reference.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    items = batch(backbones.get_backbone(name), 1)
    encoded = encode(name, items, Weights(path, file_sha256(path)))
    output = inner(items if name == "ast" else normalised(backbones.get_backbone(name), items))
    torch.testing.assert_close(encoded.tokens, output.last_hidden_state, rtol=1e-4, atol=1e-5)
    expected = (output.last_hidden_state[:, 0] + output.last_hidden_state[:, 1]) / 2 if name == "ast" else None
    if expected is None:
        expected = output.last_hidden_state[:, 0]
    torch.testing.assert_close(encoded.pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ast_is_transformers_from_the_samples_on() -> None:
    """Their extractor and their network, and ours, from the same sound."""
    import transformers

    samples = np.random.default_rng(0).normal(scale=0.1, size=70_000).astype(np.float32)
    reference = transformers.ASTFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="np")["input_values"]
    network = load(backbones.get_backbone("ast"), RANDOM, "cpu")
    expected = network(torch.from_numpy(np.asarray(reference, dtype=np.float32)), None)
    ours = network(torch.from_numpy(filter_banks([samples])), None)
    torch.testing.assert_close(ours.pooled, expected.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.tokens, expected.tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_timesformer_is_transformers_from_the_frames_on() -> None:
    import transformers

    backbone = backbones.get_backbone("timesformer")
    assert backbone.preprocess is not None
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 256, (24, 32, 3)), np.ones((10, 10, 1))).astype(np.uint8) for _ in range(8)]
    processor = transformers.VideoMAEImageProcessor(image_mean=[0.45] * 3, image_std=[0.225] * 3)
    inputs = torch.as_tensor(np.asarray(processor(frames, return_tensors="np")["pixel_values"])).reshape(
        1, 8, 3, 224, 224
    )
    network = make(backbone).eval()
    with torch.inference_mode():
        expected = network(inputs).last_hidden_state
    pixels = torch.from_numpy(np.stack([resize_and_crop(frame, backbone.preprocess) for frame in frames])[None])
    ours = load(backbone, RANDOM, "cpu")(pixels, backbone.preprocess)
    # Their processor resizes tensors, ours Pillow pictures: here and there a pixel is a level off.
    assert (ours.tokens - expected).norm() < 2e-3 * expected.norm()
