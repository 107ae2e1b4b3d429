"""Loading is strict and runs no code; features depend neither on the batch nor on their neighbours in it."""

import math
from pathlib import Path

import pytest
import torch
from networks import CLIPS, PICTURES, SMALL, batch, large_ones_are_slow, seen

from avfuse.features import backbones
from avfuse.features.backbones.loading import load, make
from avfuse.features.backbones.models.bninception import BNInception
from avfuse.features.backbones.weights import RANDOM, Weights, find_weights
from avfuse.features.errors import UsageError
from avfuse.features.spec import Precision


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
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near_and_comes_as_asked(precision: Precision) -> None:
    backbone = backbones.get_backbone("lite")
    items = batch(backbone)
    weights = find_weights(backbone.checkpoint)
    full, half = (load(backbone, weights, "cpu", dtype)(items, backbone.preprocess) for dtype in ("float32", precision))
    assert half.pooled.dtype == getattr(torch, precision)
    similarity = torch.nn.functional.cosine_similarity(half.pooled.float(), full.pooled)
    assert (similarity > 0.99).all()
    assert not torch.equal(half.pooled.float(), full.pooled)


def test_loading_is_strict_and_says_what_is_wrong(tmp_path: Path) -> None:
    resnet = backbones.get_backbone("resnet18")
    state = make(resnet).state_dict()
    wrong = {
        "missing": {name: tensor for name, tensor in state.items() if name != "conv1.weight"},
        "unexpected": {**state, "extra.weight": torch.zeros(3)},
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
    assert sum(parameter.numel() for parameter in BNInception().parameters()) == 10_270_240
