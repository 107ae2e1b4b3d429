"""Runs that the analyses and comparisons of this folder share."""

import shutil
from pathlib import Path

import pytest
from kitchen_runs import add_hiss, train
from made_up_sets import INPUTS, kitchen, sounds

from avfuse.manifests import load_manifest
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.runs.run_folder import Run, load_run


@pytest.fixture(scope="package")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    cache = folder / "cache"
    add_hiss(cache, kitchen(cache, clips=160))
    sounds(cache, clips=80)
    return folder


@pytest.fixture(scope="package")
def run(workplace: Path) -> Run:
    return load_run(train(workplace, "all"))


@pytest.fixture(scope="package")
def data(workplace: Path) -> FusionData:
    return load_data(load_manifest(workplace / "cache", "kitchen"), workplace / "cache", INPUTS)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """Of the run, to be damaged."""
    return Path(shutil.copytree(run.folder, tmp_path / "copy"))
