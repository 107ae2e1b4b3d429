"""What was broken off goes on, and ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_sets import INPUTS, kitchen

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training import checkpoint, vectorized
from avfuse.stages.fuse.training.checkpoint import TrainingCheckpoint
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import TrainedHead, train_jobs

SETTINGS: dict[str, dict[str, object]] = {
    "mlp": {"hidden": "16x8", "schedule": "cosine", "warmup": 0.2, "modality_dropout": 0.3, "l1": 1e-4},
    "crossattn": {"dim": 16, "heads": 2},
}


class Killed(Exception):
    """Somebody pulled the plug."""


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=20)


def train(data: FusionData, head: str, kept: TrainingCheckpoint | None, kill_after: int = -1) -> list[TrainedHead]:
    left = kill_after

    def on_epoch() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    training = TrainingOverrides(epochs=6, patience=3, batch_size=32, **SETTINGS[head])
    return train_jobs([TrainingJob.of(head, data, seed, training) for seed in range(3)], on_epoch, kept)


@pytest.mark.parametrize("together", [0, 10**9])
@pytest.mark.parametrize("head", list(SETTINGS))
@pytest.mark.parametrize(
    "kill_after", [pytest.param(1, marks=pytest.mark.slow), 11, pytest.param(20, marks=pytest.mark.slow)]
)
def test_training_goes_on_from_any_moment(
    data: FusionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, together: int, kill_after: int
) -> None:
    monkeypatch.setattr(vectorized, "VMAP_MAX_PARAMETERS", together)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    whole = train(data, head, None)
    with pytest.raises(Killed):
        train(data, head, TrainingCheckpoint(tmp_path / "kept", "key"), kill_after)
    torch.rand(5)
    again = train(data, head, TrainingCheckpoint(tmp_path / "kept", "key"))
    for one, other in zip(whole, again, strict=True):
        assert (one.curve, one.best_epoch) == (other.curve, other.best_epoch)
        np.testing.assert_array_equal(one.logits, other.logits)
        for name, weight in one.head.state_dict().items():
            assert weight.numpy().tobytes() == other.head.state_dict()[name].numpy().tobytes(), name


def test_what_was_trained_before_is_not_trained_again(
    data: FusionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    epochs = []
    original = vectorized.train_epochs
    monkeypatch.setattr(
        "avfuse.stages.fuse.training.trainer.train_epochs",
        lambda trainers: epochs.append(len(trainers)) or original(trainers),
    )
    with pytest.raises(Killed):
        train(data, "mlp", TrainingCheckpoint(tmp_path / "kept", "key"), kill_after=13)
    before = len(epochs)
    train(data, "mlp", TrainingCheckpoint(tmp_path / "kept", "key"))
    resumed = len(epochs) - before
    epochs.clear()
    train(data, "mlp", None)
    assert before + resumed <= len(epochs) + 1  # the epoch in which it was killed


def test_other_settings_start_anew(tmp_path: Path) -> None:
    TrainingCheckpoint(tmp_path / "kept", "one").save({"weight": torch.ones(2)}, {"epoch": 3})
    assert TrainingCheckpoint(tmp_path / "kept", "other").load() is None
    tensors, described = TrainingCheckpoint(tmp_path / "kept", "one").load() or ({}, {})
    assert tensors["weight"].tolist() == [1, 1]
    assert described == {"epoch": 3}


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    kept = TrainingCheckpoint(tmp_path / "kept", "key")
    kept.save({"weight": torch.ones(2)}, {})
    kept.file.write_bytes(kept.file.read_bytes()[:20])
    with pytest.raises(UsageError, match=r"kept is damaged \(.*\): remove it, and training starts again"):
        kept.load()


def test_checkpoints_are_gone_when_all_is_trained(data: FusionData, tmp_path: Path) -> None:
    run_experiment(data, tmp_path / "run", ["audio"], 1, TrainingOverrides(epochs=2), {}, progress=False)
    assert not (tmp_path / "run" / ".training").exists()


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from made_up_sets import INPUTS
from avfuse.manifests import load_manifest
from avfuse.stages.fuse.training import checkpoint
from avfuse.stages.fuse.training import vectorized
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training.overrides import TrainingOverrides
checkpoint.SECONDS = 0.0
cache, folder = Path(sys.argv[1]), Path(sys.argv[2])
data = load_data(load_manifest(cache, "kitchen"), cache, INPUTS)
run_experiment(data, folder, ["mlp"], 2, TrainingOverrides(epochs=30, patience=30), {}, progress=False)
"""


@pytest.mark.slow
def test_kill_9_in_mid_training_and_the_same_bytes_after(tmp_path: Path) -> None:
    data = load_data(kitchen(tmp_path), tmp_path, INPUTS)
    helpers = Path(sys.modules["made_up_sets"].__file__ or "").parent
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / "killed"), str(helpers)]
    environment = {**os.environ, "PYTHONPATH": str(helpers.parent.parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    while not list((tmp_path / "killed").glob(".training/*.safetensors")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "killed").glob("mlp/*.json"))
    subprocess.run(command, env=environment, check=True)
    run_experiment(data, tmp_path / "whole", ["mlp"], 2, TrainingOverrides(epochs=30, patience=30), {}, progress=False)
    for seed in range(2):
        one, other = (
            (tmp_path / which / "mlp" / f"seed-{seed}.safetensors").read_bytes() for which in ("killed", "whole")
        )
        assert one == other
