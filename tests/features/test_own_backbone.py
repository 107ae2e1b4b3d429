"""A user's own network is a backbone without a change to avfuse."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avfuse.features.backbones import Preprocess
from avfuse.features.media import write_video

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "add-a-backbone.md").read_text()
OWN = DOCUMENTED.partition("```python\n")[2].partition("```")[0]

PROGRAM = """
import sys
from avfuse import features
from pathlib import Path
from avfuse.features.clips import Clip
from avfuse.features.requests import resolve
from avfuse.stages.extract.run import extract
extract([Clip("a", Path("a.avi"))], resolve(["mean_colours:frames"], "uniform:2"), Path("cache"), "set", device="cpu",
        workers=1, progress=False)
table = features.load("set", "mean_colours:frames")
print(table.spec.model.checkpoint, *table.data[0].ravel().tolist())
"""


def run(folder: Path, program: str, own: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "AVFUSE_BACKBONES": own}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.empty((10, 64, 64, 3), np.uint8)
    pixels[...] = (200, 100, 50)
    write_video(tmp_path / "a.avi", pixels, fps=10)
    (tmp_path / "own.py").write_text(OWN)
    torch.save({"scale": torch.tensor([1.0, 2.0, 4.0])}, tmp_path / "own.pth")
    return tmp_path


def test_a_file_with_a_network_is_all_it_takes(folder: Path) -> None:
    done = run(folder, PROGRAM, "own.py")
    assert done.returncode == 0, done.stderr
    sha256, *values = done.stdout.split()
    assert len(sha256) == 64
    np.testing.assert_allclose([float(each) for each in values], 2 * [200, 200, 200], atol=8)


def test_a_scale_from_0_to_1_is_refused() -> None:
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    with pytest.raises(ValueError, match="of pixels from 0 to 1: multiply mean and std by 255"):
        Preprocess(resize=256, crop=224, interpolation="bilinear", **imagenet)


def test_cached_features_outlive_their_network(folder: Path) -> None:
    assert run(folder, PROGRAM, "own.py").returncode == 0
    told = run(
        folder, "from avfuse.features.requests import expand_names; print(*expand_names(['mean_colours:frames']))", ""
    )
    assert told.stdout.strip() == "mean_colours:frames"


@pytest.mark.parametrize(("own", "said"), [("nowhere.py", "is no Python file"), ("own.py:own.py", "name is taken")])
def test_a_file_that_cannot_be_used_is_named(folder: Path, own: str, said: str) -> None:
    program = (
        "from avfuse.features.backbones import names\nfrom features.errors import UsageError\n"
        "try: names()\nexcept UsageError as error: print(error)"
    )
    told = run(folder, program, own).stdout
    assert said in told
    assert len(told.strip().splitlines()) == 1
