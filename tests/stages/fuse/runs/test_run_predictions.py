"""Predictions of a head, its seeds taken together."""

from pathlib import Path

import numpy as np
import pytest
from made_up_sets import INPUTS, kitchen, sounds
from scipy.special import expit, log_softmax

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.predict import load_predictions
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.training.overrides import TrainingOverrides


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("kitchen")
    data = load_data(kitchen(folder, clips=80), folder, INPUTS)
    return run_experiment(
        data, folder / "run", ["mlp"], 2, TrainingOverrides(epochs=2), {"dataset": "kitchen"}, progress=False
    )


def test_seeds_are_averaged_as_logarithms_of_probabilities(run: Run) -> None:
    averaged = load_predictions(run.folder, "mlp", "test")
    assert averaged.seeds == [0, 1]
    assert averaged.clip_ids == run.heads["mlp"][0].clip_ids
    logs = [log_softmax(one.logits[:, :4].astype(float), axis=1) for one in run.heads["mlp"]]
    expected = (logs[0] + logs[1]) / 2
    np.testing.assert_allclose(averaged.scores[0], log_softmax(expected, axis=1), atol=1e-9)
    np.testing.assert_allclose(np.exp(averaged.scores[1]).sum(axis=1), 1)
    one = load_predictions(run.folder, "mlp", "unlabelled", seed=1)
    ids, logits = run.heads["mlp"][1].unlabelled()
    assert one.clip_ids == ids
    np.testing.assert_allclose(one.scores[1], log_softmax(logits[:, 4:].astype(float), axis=1), atol=1e-9)
    assert one.truth is None


def test_log_odds_are_averaged_with_sigmoid(tmp_path: Path) -> None:
    data = load_data(sounds(tmp_path, clips=80), tmp_path, INPUTS)
    run = run_experiment(
        data, tmp_path / "run", ["mlp"], 2, TrainingOverrides(epochs=2), {"dataset": "sounds"}, progress=False
    )
    scores = load_predictions(run.folder, "mlp", "test").scores[0]
    odds = np.prod(
        [(p / (1 - p)) ** 0.5 for p in (expit(one.logits.astype(float)) for one in run.heads["mlp"])], axis=0
    )
    np.testing.assert_allclose(expit(scores), odds / (1 + odds), rtol=1e-5)


@pytest.mark.parametrize(
    ("head", "split", "seed", "said"),
    [("audio", "test", None, "no head 'audio': it has mlp"), ("mlp", "test", 7, "no seed 7 of mlp: it has 0, 1")],
)
def test_what_is_not_there_is_named(run: Run, head: str, split: str, seed: int | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_predictions(run.folder, head, split, seed)


def test_a_set_without_unlabelled_clips_has_no_predictions_of_them(tmp_path: Path) -> None:
    data = load_data(kitchen(tmp_path, clips=80, unlabelled=0), tmp_path, INPUTS)
    run = run_experiment(
        data, tmp_path / "run", ["mlp"], 1, TrainingOverrides(epochs=1), {"dataset": "kitchen"}, progress=False
    )
    with pytest.raises(UsageError, match="no predictions of unlabelled clips: 'kitchen' has none"):
        load_predictions(run.folder, "mlp", "unlabelled")
