"""A user's own network is a backbone without a change to avfuse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from terminal import own_files

from avfuse import features
from avfuse.features.backbones import Preprocess, list_backbones
from avfuse.features.cache.load import FeatureTable
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import expand_names, resolve
from avfuse.features.media import write_video
from avfuse.stages.extract.run import extract

DOCUMENTED = (ROOT / "docs" / "add-a-backbone.md").read_text()
OWN = DOCUMENTED.partition("```python\n")[2].partition("```")[0]


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the files lie that the network's file names."""
    monkeypatch.chdir(folder)


def extracted(folder: Path) -> FeatureTable:
    specs = resolve(["mean_colours:frames"], "uniform:2")
    extract([Clip("a", folder / "a.avi")], specs, folder / "cache", "set", device="cpu", workers=1, progress=False)
    return features.load("set", "mean_colours:frames", folder / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.empty((10, 64, 64, 3), np.uint8)
    pixels[...] = (200, 100, 50)
    write_video(tmp_path / "a.avi", pixels, fps=10)
    (tmp_path / "own.py").write_text(OWN)
    torch.save({"scale": torch.tensor([1.0, 2.0, 4.0])}, tmp_path / "own.pth")
    return tmp_path


def test_a_file_with_a_network_is_all_it_takes(folder: Path) -> None:
    with own_files({"AVFUSE_BACKBONES": "own.py"}):
        table = extracted(folder)
    assert table.spec.model is not None
    assert len(table.spec.model.checkpoint) == 64
    np.testing.assert_allclose(table.data[0], 2 * [[200, 200, 200]], atol=8)


def test_a_scale_from_0_to_1_is_refused() -> None:
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    with pytest.raises(ValueError, match="of pixels from 0 to 1: multiply mean and std by 255"):
        Preprocess(resize=256, crop=224, interpolation="bilinear", **imagenet)


def test_cached_features_outlive_their_network(folder: Path) -> None:
    with own_files({"AVFUSE_BACKBONES": "own.py"}):
        extracted(folder)
    with own_files({"AVFUSE_BACKBONES": ""}):
        assert "mean_colours" not in list_backbones()
        assert expand_names(["mean_colours:frames"]) == ["mean_colours:frames"]


@pytest.mark.parametrize(("own", "said"), [("nowhere.py", "is no Python file"), ("own.py:own.py", "name is taken")])
def test_a_file_that_cannot_be_used_is_named(own: str, said: str) -> None:
    with own_files({"AVFUSE_BACKBONES": own}), pytest.raises(UsageError, match=said) as caught:
        list_backbones()
    assert "\n" not in str(caught.value)
