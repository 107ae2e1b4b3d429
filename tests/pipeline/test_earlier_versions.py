"""A cache and runs that avfuse 0.1 wrote are read by this version, which computes nothing anew and changes no byte."""

import json
import shutil
from pathlib import Path

import commands
import numpy as np
import pandas as pd
import pytest
import torch
from checkout import ROOT
from made_up_sets import INPUTS, kitchen

import avfuse
from avfuse.manifests import load_manifest
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.restore import load_head
from avfuse.stages.fuse.runs.run_folder import load_run

WRITTEN = ROOT / "tests" / "data" / "written_by_0_1"
FEATURES = ["--video", INPUTS["video"][0], "--audio", INPUTS["audio"][0]]
QUICK = ["--set", "epochs=2", "--set", "hidden=4"]
RUNS = {
    "plain": ["--fusion", "audio,mlp", "--seeds", 2, *QUICK],
    "sweep": ["--fusion", "mlp", "--seeds", 1, *QUICK, "--sweep", "lr=1e-3,3e-3"],
    "contrast": [
        *("--fusion", "crossattn", "--seeds", 1, "--set", "dim=8", "--set", "heads=2"),
        *("--set", "epochs=2", "--set", "avc=0.5"),
    ],
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with cache/ and runs/ as version 0.1 left them."""
    shutil.copytree(WRITTEN, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path, *suffixes: str) -> dict[str, bytes]:
    """The bytes of each file below a folder that version 0.1 wrote, by its path."""
    files = (WRITTEN / folder).rglob("*")
    names = sorted(str(file.relative_to(WRITTEN)) for file in files if file.suffix in suffixes)
    return {name: Path(name).read_bytes() for name in names}


def test_features_are_those_that_were_written(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("computed anew")
    kitchen(elsewhere, clips=40, unlabelled=4)
    for name in (*INPUTS["video"], *INPUTS["audio"]):
        old, new = (avfuse.load("kitchen", name, cache) for cache in ("cache", elsewhere))
        assert old.clip_ids == new.clip_ids
        np.testing.assert_array_equal(old.data, new.data)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_not_trained_again(workplace: Path, name: str) -> None:
    folder = Path("runs") / "kitchen" / name
    kept = (".json", ".npz", ".safetensors", ".csv", ".h5", ".parquet")
    before = contents(folder, *kept) | contents(Path("cache"), *kept)
    options = ["--dataset", "kitchen", "--cache", "cache", "--device", "cpu", "--name", name]
    assert commands.call("fuse", *options, *FEATURES, *RUNS[name]).exit_code == 0
    after = contents(folder, *kept) | contents(Path("cache"), *kept)
    record = str(folder / "run.json")
    old, new = (json.loads(run.pop(record)) for run in (before, after))
    assert after == before
    assert {name for name in old | new if old.get(name) != new.get(name)} <= {"cache", "command", "created", "software"}


@pytest.mark.parametrize(("run", "row"), [("plain", "mlp"), ("plain", "audio"), ("contrast", "crossattn")])
def test_weights_give_the_logits_that_were_kept_beside_them(workplace: Path, run: str, row: str) -> None:
    data = load_data(load_manifest(Path("cache"), "kitchen"), Path("cache"), INPUTS)
    for kept in load_run(Path("runs") / "kitchen" / run).heads[row]:
        head = load_head(kept, data)
        inputs = {name: data.modalities[name] for name in head.shapes}
        with torch.inference_mode():
            logits = head.predict(
                {name: modality.tokens[data.test] for name, modality in inputs.items()},
                {name: modality.present[data.test] for name, modality in inputs.items()},
            )["logits"]
        np.testing.assert_allclose(logits.numpy(), kept.logits, rtol=1e-4, atol=1e-5)


def test_studies_of_a_run_come_out_the_same(workplace: Path) -> None:
    table = Path("runs/kitchen/plain/robustness.csv")
    before = pd.read_csv(table)
    assert commands.call("understand", "robustness", table.parent, "--head", "mlp", "--device", "cpu").exit_code == 0
    pd.testing.assert_frame_equal(pd.read_csv(table), before)


def test_a_study_of_shapley_values_is_not_trained_again(workplace: Path) -> None:
    folder = Path("runs/kitchen/shapley")
    before = contents(folder, ".csv", ".json")
    options = ["--dataset", "kitchen", "--cache", "cache", "--device", "cpu", "--name", "shapley", "--seeds", 1]
    assert commands.call("understand", "contribution", *options, *FEATURES, "--fusion", "mlp", *QUICK).exit_code == 0
    assert contents(folder, ".csv", ".json") == before


def test_contrast_searches_in_the_space_that_was_trained(workplace: Path) -> None:
    options = ["--head", "crossattn", "--cache", "cache", "--device", "cpu"]
    result = commands.call("retrieve", "runs/kitchen/contrast", *options)
    assert result.exit_code == 0
    assert "recall" in result.output.lower()
