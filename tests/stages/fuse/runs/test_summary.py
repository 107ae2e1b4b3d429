"""Sweeps: every combination is trained, and validation picks the winner."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_sets import INPUTS, kitchen

from avfuse.features.errors import UsageError
from avfuse.pipeline.report import print_table
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.runs import experiment
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.runs.summary import selected_rows, summarise, validation_score
from avfuse.stages.fuse.training import vectorized
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head

QUICK = TrainingOverrides(epochs=3, hidden="16")
DESCRIBED = {"dataset": "made-up"}


def fuse(
    data: FusionData,
    folder: Path,
    heads: Sequence[str],
    sweep: Mapping[str, Sequence[str]],
    training: TrainingOverrides = QUICK,
    **more: Any,
) -> Run:
    return run_experiment(data, folder, heads, 2, training, DESCRIBED, sweep=sweep, progress=False, **more)


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=20)


def test_every_combination_is_a_row_and_results_have_a_column_for_each_setting(
    data: FusionData, tmp_path: Path
) -> None:
    run = fuse(data, tmp_path / "run", ["mlp"], {"lr": ["1e-4", "1e-2"], "l1": ["0", "1e-3"]})
    assert list(run.heads) == [f"mlp,lr={lr},l1={l1}" for lr in ("1e-4", "1e-2") for l1 in ("0", "1e-3")]
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert len(table) == 8
    assert table.groupby(["lr", "l1"]).size().tolist() == [2, 2, 2, 2]
    recipe = run.heads["mlp,lr=1e-2,l1=1e-3"][0].described["recipe"]
    assert (recipe["lr"], recipe["l1"]) == (1e-2, 1e-3)


def test_a_row_of_a_sweep_is_the_head_trained_with_its_values(data: FusionData, tmp_path: Path) -> None:
    run = fuse(data, tmp_path / "run", ["mlp"], {"lr": ["1e-4", "1e-2"], "l1": ["0", "1e-3"]})
    alone = train_head("mlp", data, 1, QUICK.updated({"lr": 1e-2, "l1": 1e-3}))
    np.testing.assert_allclose(run.heads["mlp,lr=1e-2,l1=1e-3"][1].logits, alone.logits, atol=1e-3)
    other = train_head("mlp", data, 1, QUICK.updated({"lr": 1e-2}))
    assert not np.allclose(run.heads["mlp,lr=1e-2,l1=1e-3"][1].logits, other.logits, atol=1e-3)


def test_validation_picks_the_winner_whatever_the_test_says(data: FusionData, tmp_path: Path) -> None:
    run = fuse(data, tmp_path / "run", ["audio", "mlp"], {"lr": ["1e-5", "1e-2"]}, TrainingOverrides(epochs=8))
    assert [(winner.head, winner.values, winner.rows) for winner in selected_rows(run)] == [
        ("audio", "lr=1e-2", 2),
        ("mlp", "lr=1e-2", 2),
    ]
    for one in run.heads["mlp,lr=1e-5"]:  # as if it were perfect on test
        one.described["metrics"]["top1"] = 1.0
    assert selected_rows(run)[1].values == "lr=1e-2"
    for one in run.heads["mlp,lr=1e-5"]:
        one.described["cost"]["validation_top1"] = 1.0
    assert selected_rows(run)[1].values == "lr=1e-5"
    printed = print_table(run, summarise(run))
    assert "Of 2 rows of mlp, validation prefers lr=1e-5: 100.0 % top-1 there, 100.0 % on test." in printed


def test_a_head_is_not_trained_twice_for_a_setting_that_it_lacks(data: FusionData, tmp_path: Path) -> None:
    run = fuse(data, tmp_path / "run", ["audio", "mlp"], {"fusion": ["concat", "sum"]})
    assert list(run.heads) == ["audio", "mlp,fusion=concat", "mlp,fusion=sum"]


def test_a_setting_that_no_head_has_is_named(data: FusionData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no setting is called 'speed': recipes have lr, weight_decay"):
        fuse(data, tmp_path / "run", ["mlp"], {"speed": ["1", "2"]})
    with pytest.raises(UsageError, match=r"lr=fast: .*valid number"):
        fuse(data, tmp_path / "run", ["mlp"], {"lr": ["fast"]})
    assert not (tmp_path / "run").exists()


def with_features(data: FusionData) -> FusionData:
    """The same with the names of the features that stand behind it."""
    modalities = {}
    for name, modality in data.modalities.items():
        specs = [spec.model_copy(update={"shape": (16,)}) for spec in modality.specs]
        if name == "video":
            specs = [modality.specs[0].model_copy(update={"shape": modality.tokens.shape[1:]})]
        modalities[name] = Modality(
            modality.tokens, modality.present, tuple(specs), None, FeatureLayout.of(name, specs)
        )
    return replace(data, modalities=modalities)


@pytest.mark.parametrize("together", [0, 10**9])
def test_features_are_swept_on_the_same_clips(
    data: FusionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(vectorized, "VMAP_MAX_PARAMETERS", together)
    named = with_features(data)
    values = ["lite:mfcc", "lite:chromagram", "lite:mfcc+lite:chromagram"]
    run = fuse(named, tmp_path / "run", ["audio", "video"], {"audio": values})
    assert list(run.heads) == [*(f"audio,audio={value}" for value in values), "video"]
    clip_ids = {tuple(one.clip_ids) for runs in run.heads.values() for one in runs}
    assert len(clip_ids) == 1
    alone = train_head("audio", named.only({"audio": ["lite:chromagram"]}), 0, QUICK)
    np.testing.assert_allclose(run.heads["audio,audio=lite:chromagram"][0].logits, alone.logits, atol=1e-3)


def test_features_of_what_a_setting_lets_a_head_see_are_swept(data: FusionData, tmp_path: Path) -> None:
    sweep = {"audio": ["lite:mfcc"], "inputs": ["video", "both"]}
    run = fuse(with_features(data), tmp_path / "run", ["logreg"], sweep, TrainingOverrides())
    assert list(run.heads) == ["logreg,inputs=video", "logreg,audio=lite:mfcc,inputs=both"]


def test_a_value_that_clips_cannot_have_is_named_before_anything_is_trained(data: FusionData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batches of 100 classes"):
        fuse(data, tmp_path / "run", ["mlp"], {"balanced": ["2x2", "100x2"]})
    assert not (tmp_path / "run").exists()


def test_a_sweep_that_was_broken_off_goes_on(data: FusionData, tmp_path: Path) -> None:
    sweep = {"lr": ["1e-4", "1e-2"]}
    whole = fuse(data, tmp_path / "whole", ["mlp"], sweep)
    fuse(data, tmp_path / "broken", ["mlp"], sweep)
    (tmp_path / "broken" / "mlp,lr=1e-2" / "seed-1.json").unlink()
    again = fuse(data, tmp_path / "broken", ["mlp"], sweep)
    np.testing.assert_array_equal(again.heads["mlp,lr=1e-2"][1].logits, whole.heads["mlp,lr=1e-2"][1].logits)


def test_rows_that_are_not_picked_never_see_test_clips(data: FusionData, tmp_path: Path) -> None:
    sweep, told = {"lr": ["1e-4", "1e-2"], "l1": ["0", "1e-3"]}, []

    def pick(scores: Mapping[str, float]) -> list[str]:
        told.append(scores)
        return [max(scores, key=scores.__getitem__)]

    run = fuse(data, tmp_path / "picked", ["mlp"], sweep, pick=pick)
    whole = fuse(data, tmp_path / "whole", ["mlp"], sweep)
    ((name, runs),) = run.heads.items()
    assert told[0] == pytest.approx({row: validation_score(whole, each) for row, each in whole.heads.items()})
    assert name == max(told[0], key=told[0].__getitem__)
    for one, other in zip(runs, whole.heads[name], strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-3)
        pd.testing.assert_frame_equal(one.curve, other.curve, atol=1e-4)
    assert [path.parent.name for path in (tmp_path / "picked").glob("*/seed-*.json")] == [name, name]


def test_another_pick_only_refits(data: FusionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = {"lr": ["1e-4", "1e-2"]}
    fuse(data, tmp_path / "run", ["mlp"], sweep, pick=lambda _: ["mlp,lr=1e-2"])
    monkeypatch.setattr(experiment, "choose_epochs", lambda *_: pytest.fail("chosen again"))
    run = fuse(data, tmp_path / "run", ["mlp"], sweep, pick=lambda _: ["mlp,lr=1e-4"])
    assert sorted(run.heads) == ["mlp,lr=1e-2", "mlp,lr=1e-4"]


def test_two_targets_are_swept_too(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path)
    data = load_data(manifest, tmp_path, INPUTS)
    run = fuse(data, tmp_path / "run", ["mlp"], {"lr": ["1e-5", "1e-2"]}, TrainingOverrides(epochs=6))
    assert selected_rows(run)[0].values == "lr=1e-2"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sweep"] == {"lr": ["1e-5", "1e-2"]}
