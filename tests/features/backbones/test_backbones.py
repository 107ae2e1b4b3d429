"""Backbones give what the libraries that define them give, from the same weights."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avfuse.features import backbones
from avfuse.features.backbones import Backbone, Encoded, Grid
from avfuse.features.backbones.loading import calibrate_batch_norms, load, make, noise
from avfuse.features.backbones.models.bninception import BNInception
from avfuse.features.backbones.weights import RANDOM, Weights, file_sha256, find_weights
from avfuse.features.errors import UsageError
from avfuse.features.inputs.filter_bank import filter_banks
from avfuse.features.inputs.resize import fit_frame
from avfuse.features.spec import Precision
from avfuse.stages.extract.encode import pool_tokens

LARGE = {"resnet101", "inception_resnet_v2", "vit", "timesformer", "swin3d", "mvit_v2_s", "ast"}
SMALL = ("lite", "tsn", "resnet18", "efficientnet_b0")
PICTURES = (*SMALL, "resnet101", "inception_resnet_v2", "vit")
CLIPS = ("timesformer", "swin3d", "mvit_v2_s")


def large_ones_are_slow(*cases: Any) -> list[Any]:
    """Cases whose name of a backbone, alone or first, tells whether they take long."""
    names = [case if isinstance(case, str) else case[0] for case in cases]
    given = [(case,) if isinstance(case, str) else case for case in cases]
    slow = {True: pytest.mark.slow, False: ()}
    return [pytest.param(*case, marks=slow[name in LARGE]) for name, case in zip(names, given, strict=True)]


def batch(backbone: Backbone, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Random pictures or a random filter bank, as the backbone takes them."""
    torch.manual_seed(seed)
    values = noise(backbone, count)
    if backbone.preprocess is None:
        return values
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.preprocess.mean, backbone.preprocess.std))
    return (values * std + mean).round().to(torch.uint8).movedim(-3, -1)


def seen(backbone: Backbone) -> tuple[int, ...]:
    """The shape of one item as its tokens' grid knows it."""
    if backbone.preprocess is None:
        return (128, 1024)
    return (*backbone.frame_counts[:1], backbone.preprocess.crop, backbone.preprocess.crop)


def normalised(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    assert backbone.preprocess is not None
    mean, std = (torch.tensor(each) for each in (backbone.preprocess.mean, backbone.preprocess.std))
    return ((pixels - mean) / std).movedim(-1, -3)


def encode(name: str, items: torch.Tensor, weights: Weights = RANDOM) -> Encoded:
    return load(backbones.get_backbone(name), weights, "cpu")(items, backbones.get_backbone(name).preprocess)


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
    theirs, ours = (encode("tsn", pixels, Weights(each, file_sha256(each))).pooled for each in (path, plain))
    torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize("name", large_ones_are_slow("inception_resnet_v2", "vit"))
@torch.inference_mode()
def test_timms_networks_are_timms(name: str, tmp_path: Path) -> None:
    import timm

    architecture = {"vit": "vit_base_patch16_224"}.get(name, name)
    theirs = timm.create_model(architecture, pretrained=False)  # with its classifier, as published
    calibrate_batch_norms(theirs, lambda: theirs(noise(backbones.get_backbone(name))))
    theirs.eval()
    path = tmp_path / "model.safetensors"
    save_file(theirs.state_dict(), path)
    pixels = batch(backbones.get_backbone(name), 1)
    encoded = encode(name, pixels, Weights(path, file_sha256(path)))
    features = theirs.forward_features(normalised(backbones.get_backbone(name), pixels))
    expected = theirs.forward_head(features, pre_logits=True)
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
    theirs = torchvision.models.get_model(architecture, weights=None)
    calibrate_batch_norms(theirs, lambda: theirs(noise(backbones.get_backbone(name))))
    theirs.eval()
    path = tmp_path / "model.pth"
    torch.save(theirs.state_dict(), path)
    pixels = batch(backbones.get_backbone(name), 1)
    encoded = encode(name, pixels, Weights(path, file_sha256(path)))
    setattr(theirs, classifier, torch.nn.Identity())
    given = normalised(backbones.get_backbone(name), pixels)
    expected = theirs(given.transpose(1, 2) if given.ndim == 5 else given)
    assert expected.std() > 0.05
    assert (encoded.pooled - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", large_ones_are_slow("ast", "timesformer"))
@torch.inference_mode()
def test_transformers_networks_are_transformers(name: str, tmp_path: Path) -> None:
    """A hub checkpoint holds the encoder under its own name beside a classifier."""
    import transformers

    torch.manual_seed(1)
    if name == "ast":
        theirs = transformers.ASTForAudioClassification(transformers.ASTConfig()).eval()
        inner = theirs.audio_spectrogram_transformer
    else:
        theirs = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig()).eval()
        inner = theirs.timesformer
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    items = batch(backbones.get_backbone(name), 1)
    encoded = encode(name, items, Weights(path, file_sha256(path)))
    given = inner(items if name == "ast" else normalised(backbones.get_backbone(name), items))
    torch.testing.assert_close(encoded.tokens, given.last_hidden_state, rtol=1e-4, atol=1e-5)
    expected = (given.last_hidden_state[:, 0] + given.last_hidden_state[:, 1]) / 2 if name == "ast" else None
    if expected is None:
        expected = given.last_hidden_state[:, 0]
    torch.testing.assert_close(encoded.pooled, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def moved_most(name: str, items: torch.Tensor, changed: torch.Tensor) -> tuple[int, ...]:
    """The cell of the grid whose token differs most between two inputs."""
    backbone = backbones.get_backbone(name)
    network = load(backbone, RANDOM, "cpu")
    before, after = (network(each, backbone.preprocess).tokens for each in (items, changed))
    assert before is not None
    assert after is not None
    assert backbone.grid is not None
    grid = backbone.grid(seen(backbone))
    change = (after - before).norm(dim=-1)[0, grid.prefix :].reshape(grid.cells)
    return tuple(int(each) for each in np.unravel_index(int(change.argmax()), grid.cells))


# A convolution sees its neighbours.
@pytest.mark.parametrize(
    ("name", "size", "spread"), large_ones_are_slow(("vit", 16, 0), ("lite", 32, 1), ("tsn", 32, 1))
)
def test_an_impulse_in_a_patch_moves_that_patchs_token(name: str, size: int, spread: int) -> None:
    pixels = batch(backbones.get_backbone(name), 1)
    changed = pixels.clone()
    changed[:, 4 * size : 5 * size, 2 * size : 3 * size] ^= 255
    row, column = moved_most(name, pixels, changed)
    assert abs(row - 4) <= spread
    assert abs(column - 2) <= spread


@pytest.mark.slow
def test_an_impulse_in_time_and_frequency_moves_asts_token() -> None:
    banks = torch.zeros(1, 1024, 128)
    changed = banks.clone()
    changed[:, 406:410, 76:80] = 5.0  # patches are 16 wide and 10 apart: only the one of band 7 and time 40 has this
    assert moved_most("ast", banks, changed) == (7, 40)


@pytest.mark.slow
def test_an_impulse_in_one_frame_moves_timesformers_token_of_it() -> None:
    pixels = torch.full((1, 8, 224, 224, 3), 128, dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, 5, 48:64, 160:176] = 255
    assert moved_most("timesformer", pixels, changed) == (3, 10, 5)  # row, column, frame


@pytest.mark.slow
def test_an_impulse_in_two_frames_moves_swins_token_of_them() -> None:
    pixels = torch.full((1, 16, 224, 224, 3), 128, dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, 6:8, 64:96, 160:192] = 255
    assert moved_most("swin3d", pixels, changed) == (3, 2, 5)  # pair of frames, row, column


def test_tokens_are_averaged_cell_by_cell() -> None:
    grid = Grid((4, 5), prefix=1)
    tokens = torch.arange(21.0).reshape(1, 21, 1)
    assert pool_tokens(tokens, grid, (4, 5)) is tokens
    pooled = pool_tokens(tokens, grid, (2, 2))[0, :, 0].tolist()
    assert pooled == [
        0,
        np.mean([1, 2, 6, 7]),
        np.mean([3, 4, 8, 9]),
        np.mean([11, 12, 16, 17]),
        np.mean([13, 14, 18, 19]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_random_weights_are_the_same_every_time(name: str) -> None:
    first, second = make(backbones.get_backbone(name)).state_dict(), make(backbones.get_backbone(name)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", large_ones_are_slow(*PICTURES, *CLIPS, "ast"))
def test_shapes_are_as_declared_and_neighbours_and_batch_size_do_not_matter(name: str) -> None:
    """At most 1e-5 of a feature's largest number, alone or beside others."""
    backbone = backbones.get_backbone(name)
    items = batch(backbone, 7 if name in SMALL else 2)
    network = load(backbone, RANDOM, "cpu")
    among = network(items, backbone.preprocess)
    alone = network(items[1:2], backbone.preprocess)
    for whole, single in zip(among, alone, strict=True):
        if whole is not None and single is not None:
            assert (whole[1] - single[0]).abs().max() <= 1e-5 * single.abs().max()
    assert among.pooled.shape == (len(items), backbone.feature_dim)
    assert among.pooled.isfinite().all()
    assert (among.tokens is None) == (backbone.grid is None)
    if backbone.grid is not None and among.tokens is not None:
        grid = backbone.grid(seen(backbone))
        assert among.tokens.shape == (len(items), grid.prefix + math.prod(grid.cells), backbone.feature_dim)


@pytest.mark.slow
def test_ast_is_transformers_from_the_samples_on() -> None:
    """Their extractor and their network, and ours, from the same sound."""
    import transformers

    samples = np.random.default_rng(0).normal(scale=0.1, size=70_000).astype(np.float32)
    theirs = transformers.ASTFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="np")["input_values"]
    network = load(backbones.get_backbone("ast"), RANDOM, "cpu")
    expected = network(torch.from_numpy(np.asarray(theirs, dtype=np.float32)), None)
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
    given = torch.as_tensor(np.asarray(processor(frames, return_tensors="np")["pixel_values"])).reshape(
        1, 8, 3, 224, 224
    )
    network = make(backbone).eval()
    with torch.inference_mode():
        expected = network(given).last_hidden_state
    pixels = torch.from_numpy(np.stack([fit_frame(frame, backbone.preprocess) for frame in frames])[None])
    ours = load(backbone, RANDOM, "cpu")(pixels, backbone.preprocess)
    # Their processor resizes tensors, ours Pillow pictures: here and there a pixel is a level off.
    assert (ours.tokens - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near_and_comes_as_asked(precision: Precision) -> None:
    backbone = backbones.get_backbone("lite")
    items = batch(backbone)
    weights = find_weights(backbone.checkpoint)
    full, half = (load(backbone, weights, "cpu", each)(items, backbone.preprocess) for each in ("float32", precision))
    assert half.pooled.dtype == getattr(torch, precision)
    similarity = torch.nn.functional.cosine_similarity(half.pooled.float(), full.pooled)
    assert (similarity > 0.99).all()
    assert not torch.equal(half.pooled.float(), full.pooled)


def test_an_impulse_in_time_and_frequency_moves_lites_token() -> None:
    """A filter bank is a picture of bands by time: 4 x 32 cells of 32 bands by 32 frames."""
    banks = torch.zeros(1, 1024, 128)
    changed = banks.clone()
    changed[:, 20 * 32 : 21 * 32, 2 * 32 : 3 * 32] = 2.0
    network = load(backbones.get_backbone("lite"), find_weights(backbones.get_backbone("lite").checkpoint), "cpu")
    tokens = [network(each, None).tokens for each in (banks, changed)]
    assert tokens[0] is not None
    assert tokens[0].shape == (1, 128, 1280)
    change = (tokens[1] - tokens[0]).norm(dim=-1).reshape(4, 32)
    row, column = divmod(int(change.argmax()), 32)
    assert max(abs(row - 2), abs(column - 20)) <= 1  # a convolution sees its neighbours


def test_loading_is_strict_and_says_what_is_wrong(tmp_path: Path) -> None:
    resnet = backbones.get_backbone("resnet18")
    state = make(resnet).state_dict()
    wrong = {
        "missing": {name: tensor for name, tensor in state.items() if name != "conv1.weight"},
        "no place": {**state, "extra.weight": torch.zeros(3)},
        "shape": {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)},
    }
    for said, broken in wrong.items():
        path = tmp_path / "broken.pth"
        torch.save(broken, path)
        with pytest.raises(UsageError, match=said) as caught:
            load(resnet, Weights(path, "x"), "cpu")
        assert "\n" not in str(caught.value)
        assert "resnet18" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"this is text", b"PK\x03\x04broken"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_refused(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{ending}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no weights"):
        load(backbones.get_backbone("resnet18"), Weights(path, "x"), "cpu")


def test_weights_files_run_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "sprung"),))

    path = tmp_path / "trap.pth"
    torch.save({"conv1.weight": Trap()}, path)
    with pytest.raises(UsageError, match="no weights"):
        load(backbones.get_backbone("resnet18"), Weights(path, "x"), "cpu")


def test_tsns_network_has_the_published_number_of_parameters() -> None:
    assert sum(each.numel() for each in BNInception().parameters()) == 10_270_240
