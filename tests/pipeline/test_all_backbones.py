"""Every backbone from media to features on a CPU, and untrained ones said to be so wherever they show."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT

from avfuse import features
from avfuse.features import backbones
from avfuse.features.cache.store import find_specs
from avfuse.manifests.demo import render_demo

pytestmark = pytest.mark.slow


def avfuse(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from avfuse.pipeline.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the demo's, as a data set of their own: two classes, five groups."""
    folder = tmp_path_factory.mktemp("work")
    classes = ["BouncingCube", "FluteRising"]
    clips = render_demo(folder / "clips", groups=5, clips_per_group=1, classes=classes, n_jobs=1, progress=False)
    rows = [{"path": clip.path, "label": clip.label, "scene": clip.group, "split": clip.split} for clip in clips]
    pd.DataFrame(rows).to_csv(folder / "clips" / "labels.csv", index=False)
    return folder


@pytest.mark.timeout(1800)
def test_every_backbone_runs_from_end_to_end(folder: Path) -> None:
    said = avfuse(
        "extract", "--dataset", "folder", "--root", "clips", "--features", "all", "--weights", "random", "--limit", "3",
        "--workers", "1", cwd=folder,
    )  # fmt: skip
    cached = find_specs(folder / "cache", "clips")
    assert {spec.model.backbone for spec in cached if spec.model} == set(backbones.list_backbones())
    lines = [line for line in said.splitlines() if " done " in line]
    assert len(lines) == len(cached)
    assert all(line.endswith("(untrained weights)") for line in lines)
    for spec in cached:
        data = features.load("clips", spec.name, folder / "cache").data
        assert np.isfinite(data).all(), spec.name
        assert data.astype(float).std(axis=0).max() > 1e-3, f"{spec.name} is the same for all clips"


def test_the_report_says_that_weights_were_untrained(folder: Path) -> None:
    asked = "resnet18:frames,resnet18:mfcc"
    avfuse(
        "extract", "--dataset", "folder", "--root", "clips", "--name", "whole", "--group-column", "scene",
        "--features", asked, "--frames", "uniform:2", "--weights", "random", "--workers", "1", cwd=folder,
    )  # fmt: skip
    said = avfuse(
        "fuse", "--dataset", "whole", "--fusion", "mlp", "--video", "resnet18:frames", "--audio", "resnet18:mfcc",
        "--epochs", "1", "--seeds", "1", cwd=folder,
    )  # fmt: skip
    page = (folder / "runs" / "whole" / "mlp" / "report.html").read_text()
    for told in (said, page):
        assert "untrained" in told.lower()
