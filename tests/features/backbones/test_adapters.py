"""Any network of timm or torchvision gives the same features as in its library; names that none has are rejected."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from adapted import PIXELS, encode, frames, prepared
from checkout import ROOT
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from avfuse.features.backbones import WeightsChoice
from avfuse.features.backbones.loading import calibrate_batch_norms
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import expand_names, resolve


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("resnet18.a1_in1k", (7, 7)),
        ("vit_tiny_patch16_224", (14, 14)),
        pytest.param("swin_tiny_patch4_window7_224", (7, 7), marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_timms_networks_are_timms(name: str, grid: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model(name, pretrained=False)
    calibrate_batch_norms(reference, lambda: reference(torch.randn(2, 3, 224, 224)))
    reference.eval()
    path = tmp_path / "model.safetensors"
    save_file(reference.state_dict(), path)
    data = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    inputs = create_transform(**data)(Image.fromarray(PIXELS))[None]
    features = reference.forward_features(inputs)
    encoded = encode(f"timm:{name}", prepared(f"timm:{name}"), str(path))
    torch.testing.assert_close(encoded.pooled, reference.forward_head(features, pre_logits=True), rtol=1e-4, atol=1e-4)
    (spec,) = resolve([f"timm:{name}:frames:tokens"], weights=WeightsChoice.parse(str(path)))
    assert spec.grid == grid
    assert encoded.tokens is not None
    assert spec.shape == (25, *encoded.tokens.shape[1:])


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        pytest.param("googlenet", marks=pytest.mark.slow),
        pytest.param("r3d_18", marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_torchvisions_networks_are_torchvisions(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    more = {"transform_input": True, "init_weights": False} if name == "googlenet" else {}
    reference = torchvision.models.get_model(name, weights=None, **more)
    calibrate_batch_norms(
        reference, lambda: reference(torch.randn(2, *((3, 16, 112, 112) if name == "r3d_18" else (3, 224, 224))))
    )
    reference.eval()
    path = tmp_path / "model.pth"
    torch.save(reference.state_dict(), path)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    if name == "r3d_18":
        inputs = transform(torch.from_numpy(np.stack(frames(16))).permute(0, 3, 1, 2))[None]
        encoded = encode(f"torchvision:{name}", prepared(f"torchvision:{name}", 16), str(path))
    else:
        inputs = transform(Image.fromarray(PIXELS))[None]
        encoded = encode(f"torchvision:{name}", prepared(f"torchvision:{name}"), str(path))
    classifier = [part for part in reference.modules() if isinstance(part, torch.nn.Linear)][-1]
    torch.testing.assert_close(classifier(encoded.pooled), reference(inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet5000", "did you mean"),
        ("torchvision:resnet5000", "did you mean"),
        ("torchvision:squeezenet1_0", "no linear classifier"),
        ("hf:not-a-folder", "no such folder"),
        ("hf:tests", "config.json"),
        ("nets:x", "unknown backbone"),
    ],
)
def test_what_there_is_not_is_refused_in_a_line(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError, match=said) as caught:
        resolve([f"{name}:frames"])
    assert "\n" not in str(caught.value)


def test_names_of_adapted_features_need_no_network_to_be_read() -> None:
    assert expand_names(["hf:no/where:frames", "timm:none:images"])[:2] == ["hf:no/where:frames", "timm:none:waveplot"]


def test_an_input_that_a_network_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match="takes frames"):
        resolve(["timm:resnet18:clip"], weights=WeightsChoice("random"))
