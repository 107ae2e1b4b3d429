"""`avfuse predict`: media files in, the probabilities of a data set's evaluation out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_sets import INPUTS, kitchen
from predicted_clips import (
    CLASSES,
    WINDOWS,
    call,
    check_same,
    clips_of,
    refused,
)

from avfuse.features.spec import FeatureSpec
from avfuse.pipeline.predict import predict
from avfuse.pipeline.prediction import Prediction
from avfuse.pipeline.report.predictions import print_summary
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training.overrides import TrainingOverrides


def test_test_clips_get_the_probabilities_of_the_evaluation(predicted: Prediction, run: Path) -> None:
    check_same(predicted, run, "mlp", "test")
    assert predicted.validation_score is None
    assert predicted.seconds_per_clip > 0


def test_cached_views_are_averaged_as_in_the_evaluation(workplace: Path) -> None:
    views = workplace / "runs" / "set" / "views"
    paths = [clip.path for clip in clips_of(workplace, "test")]
    check_same(predict(paths, views, device="cpu", workers=1), views, "mlp", "test")


def test_what_could_be_used_is_said_of_every_clip(predicted: Prediction) -> None:
    by_name = {clip.path.name: clip for clip in predicted.clips}
    assert by_name["low4.avi"].notes == ("no audio stream: predicted from the picture alone",)
    assert by_name["low4.avi"].used == ("video",)
    assert by_name["low5.avi"].notes == ("the sound is silent",)
    assert by_name["high4.avi"].notes == ()
    assert by_name["high4.avi"].used == ("video", "audio")


def test_top_classes_come_in_order_of_probability(predicted: Prediction) -> None:
    (target,) = predicted.targets
    for clip in predicted.clips:
        names, values = zip(*clip.top(target), strict=True)
        assert set(names) == set(CLASSES)
        assert sum(values) == pytest.approx(1)
        assert values[0] >= values[1]
        assert len(clip.top(target, 1)) == 1


def test_windows_are_clips_of_the_file(windows: Prediction, run: Path) -> None:
    np.testing.assert_allclose([(clip.start, clip.end) for clip in windows.clips], WINDOWS)
    assert f"{len(WINDOWS)} of {len(WINDOWS)} windows predicted" in print_summary(windows)
    check_same(windows, run, "mlp", "unlabelled")


def test_the_best_row_by_validation_is_taken_and_said(workplace: Path, run: Path) -> None:
    clip = workplace / "clips" / "high4.avi"
    said = call(clip, "--run", run).stderr
    results = pd.read_csv(run / "results.csv").groupby("head", sort=False)["validation_top1"].mean()
    best = results.max()
    row = next(row for row in ("audio", "video", "mlp") if results[row] == best)
    assert f"{run}:{row}, of 3 rows the best on validation ({100 * best:.1f} % top-1), 2 seeds" in said


def test_a_tables_row_is_its_tuned_heads(predicted: Prediction, run: Path, tmp_path: Path) -> None:
    rows = {"both": {"folder": str(run), "tuned": "mlp", "seeds": 2}}
    (tmp_path / "table.json").write_text(json.dumps({"rows": rows}))
    one = predicted.clips[-1]
    (found,) = predict([one.path], f"{tmp_path}:both", device="cpu", workers=1).clips
    np.testing.assert_allclose(found.probabilities["label"], one.probabilities["label"], rtol=0, atol=1e-6)
    assert "has no trained row 'other'" in refused(one.path, "--run", tmp_path, "--head", "other")


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Callable[[Callable[[FeatureSpec], FeatureSpec]], Path]:
    """A copy of the run whose frames' feature is another one."""

    def change(alter: Callable[[FeatureSpec], FeatureSpec]) -> Path:
        folder = Path(shutil.copytree(run, tmp_path / "changed"))
        described = json.loads((folder / "run.json").read_text())
        old = described["features"]["video"][0]
        new = alter(FeatureSpec.model_validate({name: value for name, value in old.items() if name != "key"}))
        described["features"]["video"] = [{**new.model_dump(mode="json"), "key": new.key}]
        (folder / "run.json").write_text(json.dumps(described))
        return folder

    return change


def test_features_that_would_be_others_are_refused(
    changed: Callable[[Callable[[FeatureSpec], FeatureSpec]], Path],
) -> None:
    def other_weights(spec: FeatureSpec) -> FeatureSpec:
        assert spec.model is not None
        return spec.model_copy(update={"model": spec.model.model_copy(update={"checkpoint": "00" * 32})})

    assert "--weights lite=FILE" in refused("x.avi", "--run", changed(other_weights), "--head", "video")


def test_heads_over_features_from_elsewhere_cannot_predict(tmp_path: Path) -> None:
    data = load_data(kitchen(tmp_path, clips=80), tmp_path, INPUTS)
    described = {"dataset": "kitchen", "collection": "kitchen"}
    training = TrainingOverrides(epochs=1, hidden="16")
    run_experiment(data, tmp_path / "run", ["mlp"], 1, training, described, progress=False)
    assert "was computed elsewhere" in refused("a.mp4", "--run", tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--head", "svc"], "holds no row 'svc'"),
        (["--hop", "1"], "name their length too"),
        (["--window", "0"], "window of 0 seconds"),
        (["--window", "1", "--hop", "-1"], "hop of -1 seconds"),
        (["--window", "long"], "--window long: not a number of seconds"),
        (["-o", "x.png"], "a picture shows windows over time"),
        (["--json", "-o", "x.csv"], "name a .json file, or leave --json out"),
        (["--weights", ","], "weights ','"),
        (["--window", "0.1", "--hop", "0.000001"], "take a longer hop"),
    ],
)
def test_mistakes_are_one_line(workplace: Path, run: Path, given: list[str], said: str) -> None:
    assert said in refused(workplace / "clips" / "long.avi", "--run", run, *given)


def test_what_is_no_run_is_named(workplace: Path) -> None:
    assert f"{workplace / 'clips'} is no run" in refused("a.mp4", "--run", workplace / "clips")
