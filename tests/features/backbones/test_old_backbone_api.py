"""Backbone files and scripts written with the names of the previous release still work, with a warning."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from terminal import own_files

from avfuse.features.backbones import get_backbone, list_backbones
from avfuse.features.backbones.loading import load
from avfuse.features.backbones.weights import find_weights
from avfuse.features.feature_names import resolve

OLD_FILE = """
from pathlib import Path

import torch

from avfuse.features.backbones import Backbone, Checkpoint, Encoded, Local, Preprocess, get, names, register, unknown
from avfuse.features.backbones.registry import map_grid, of_map


class Quarters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, pictures):
        return torch.nn.functional.avg_pool2d(pictures, 32) * self.scale[:, None, None]


register(
    Backbone(
        name="quarters",
        revision=1,
        inputs=("frames",),
        feature_dim=3,
        preprocess=Preprocess(resize=64, crop=64, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)),
        checkpoints=(Checkpoint(name="quarters", file="own.pth", licence="mine", source=Local(Path("own.pth"))),),
        make=Quarters,
        encode=lambda network, pictures: of_map(network(pictures)),
        grid=map_grid,
    )
)
assert callable(get) and callable(names) and callable(unknown)
"""


def test_a_backbone_file_with_the_old_names_works_and_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OLD_FILE)
    torch.save({"scale": torch.tensor([1.0, 2.0, 4.0])}, tmp_path / "own.pth")
    with own_files({"AVFUSE_BACKBONES": "own.py"}):
        with pytest.warns(FutureWarning) as warnings:
            assert "quarters" in list_backbones()
        (spec,) = resolve(["quarters:frames:tokens"], "uniform:1")
        quarters = get_backbone("quarters")
    encode = load(quarters, find_weights(quarters.checkpoint), "cpu")
    pixels = torch.full((1, 64, 64, 3), 10, dtype=torch.uint8)
    encoded = encode(pixels, quarters.preprocess)
    assert spec.shape == (1, 4, 3)
    assert encoded.tokens is not None
    assert encoded.tokens[0].tolist() == 4 * [[10, 20, 40]]
    messages = {str(warning.message).partition(":")[0] for warning in warnings}
    package = "avfuse.features.backbones"
    assert messages >= {
        f"'{package}.Local' is '{package}.LocalFile' now",
        f"'{package}.get' is '{package}.get_backbone' now",
        f"'{package}.names' is '{package}.list_backbones' now",
        f"'{package}.unknown' is '{package}.unknown_backbone_message' now",
        f"'{package}.registry.map_grid' is '{package}.registry.feature_map_grid' now",
        f"'{package}.registry.of_map' is '{package}.registry.from_feature_map' now",
    }
    assert {Path(warning.filename).name for warning in warnings} == {"own.py"}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("backbones.weights", "Address", "Url"),
        ("backbones.weights", "Local", "LocalFile"),
        ("cache", "AskedClips", "ClipQuery"),
        ("cache", "Found", "LookupResult"),
        ("cache.load", "Table", "FeatureTable"),
        ("cache.streaming", "Batch", "FeatureBatch"),
        ("inputs", "NoAudio", "prepare.NoAudio"),
        ("inputs", "dtype_of", "prepare.input_dtype"),
    ],
)
def test_old_names_are_the_new_classes(module: str, old: str, new: str) -> None:
    path = f"avfuse.features.{module}"
    with pytest.warns(FutureWarning, match=f"'{path}.{old}' is '{path}.{new}' now"):
        leads_to = getattr(import_module(path), old)
    submodule, _, name = f"{path}.{new}".rpartition(".")
    assert leads_to is getattr(import_module(submodule), name)
