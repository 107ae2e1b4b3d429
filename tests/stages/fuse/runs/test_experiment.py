"""Runs are kept, read back, and never mixed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_sets import INPUTS, kitchen, sounds

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.runs import experiment
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.run_folder import Run, load_run, results_table
from avfuse.stages.fuse.runs.summary import chance, notes, summarise
from avfuse.stages.fuse.training import vectorized
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import TrainedHead

QUICK = TrainingOverrides(epochs=2)
DESCRIBED = {"dataset": "made-up"}


def fuse(data: FusionData, folder: Path, heads: list[str], seeds: int = 2, **options: object) -> Run:
    training = options.pop("training", QUICK)
    return run_experiment(data, folder, heads, seeds, training, DESCRIBED, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=20)


def test_results_have_a_line_per_head_and_seed(data: FusionData, tmp_path: Path) -> None:
    run = fuse(data, tmp_path / "run", ["mlp", "audio"])
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert table[["head", "seed"]].values.tolist() == [["audio", 0], ["audio", 1], ["mlp", 0], ["mlp", 1]]
    assert (table["n_test"] == len(data.test)).all()
    one = run.heads["mlp"][1]
    expected = (one.logits.argmax(axis=1) == data.truth[0][data.test].numpy()).mean()
    assert table.query("head == 'mlp' and seed == 1")["top1"].item() == pytest.approx(expected)


def test_what_was_trained_is_read_back(data: FusionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fuse(data, tmp_path / "run", ["mlp"])
    trained: list[tuple[str, list[int]]] = []
    original = experiment.train_jobs

    def noted(plans: list[TrainingJob], *rest: Any, **more: Any) -> list[TrainedHead]:
        trained.append((plans[0].head, [plan.seed for plan in plans]))
        return original(plans, *rest, **more)

    monkeypatch.setattr(experiment, "train_jobs", noted)
    fuse(data, tmp_path / "run", ["mlp"])
    assert trained == []
    again = fuse(data, tmp_path / "run", ["mlp", "video"], seeds=3)
    assert trained == [("mlp", [0, 1, 2]), ("video", [0, 1, 2])]  # side by side: 0 and 1 are only company
    np.testing.assert_array_equal(again.heads["mlp"][0].logits, first.heads["mlp"][0].logits)


@pytest.mark.parametrize("together_parameters", [0, 10**9])
def test_a_run_that_was_broken_off_ends_with_the_same_bytes(
    data: FusionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together_parameters: int
) -> None:
    monkeypatch.setattr(vectorized, "VMAP_MAX_PARAMETERS", together_parameters)
    fuse(data, tmp_path / "whole", ["mlp", "audio"], seeds=3)
    fuse(data, tmp_path / "broken", ["mlp", "audio"], seeds=3)
    for name in ("mlp/seed-1.json", "mlp/seed-2.safetensors", "mlp/seed-2.json", "audio/seed-0.json"):
        (tmp_path / "broken" / name).unlink()
    fuse(data, tmp_path / "broken", ["mlp", "audio"], seeds=3)
    for path in (tmp_path / "whole").glob("*/*.safetensors"):
        other = tmp_path / "broken" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_a_run_read_back_equals_the_one_that_was_made(data: FusionData, tmp_path: Path) -> None:
    run = fuse(data, tmp_path / "run", ["audio"])
    read = load_run(tmp_path / "run")
    pd.testing.assert_frame_equal(results_table(read), results_table(run))
    assert summarise(read) == summarise(run)


def test_other_settings_under_the_same_name_are_refused(data: FusionData, tmp_path: Path) -> None:
    fuse(data, tmp_path / "run", ["audio"], seeds=1)
    with pytest.raises(UsageError, match=r"lr: None there, 0\.1 here"):
        fuse(data, tmp_path / "run", ["audio"], seeds=1, training=TrainingOverrides(epochs=2, lr=0.1))
    fuse(data, tmp_path / "other", ["audio"], seeds=1, training=TrainingOverrides(epochs=2, lr=0.1))
    with pytest.raises(UsageError, match=r"lr: 0\.1 there, None here"):
        fuse(data, tmp_path / "other", ["audio"], seeds=1, training=TrainingOverrides(epochs=2))
    replaced = fuse(data, tmp_path / "run", ["video"], seeds=1, training=TrainingOverrides(epochs=1), replace=True)
    assert list(replaced.heads) == ["video"]
    assert not list((tmp_path / "run" / "audio").glob("seed-*"))


def test_other_data_under_the_same_name_are_refused(
    data: FusionData, make_data: Callable[..., FusionData], tmp_path: Path
) -> None:
    fuse(data, tmp_path / "run", ["audio"], seeds=1)
    with pytest.raises(UsageError, match="other clips or features"):
        fuse(make_data(clips_per_class=21), tmp_path / "run", ["audio"], seeds=1)


def test_other_feature_values_are_other_data(data: FusionData, make_data: Callable[..., FusionData]) -> None:
    same, other = make_data(clips_per_class=20), make_data(clips_per_class=20)
    other.modalities["audio"].tokens[0, 0, 0] += 1
    assert same.fingerprint == data.fingerprint
    assert other.fingerprint != data.fingerprint


def test_the_table_says_what_its_reader_has_to_know(data: FusionData, tmp_path: Path) -> None:
    control = fuse(
        data, tmp_path / "run", ["audio"], seeds=1, training=TrainingOverrides(epochs=1, shuffle_labels=True)
    )
    said = " ".join(notes(control))
    assert "shuffled" in said
    control.described["untrained"] = ["lite:frames"]
    control.described["test_groups"] = ["a", "b"]
    said = " ".join(notes(control))
    assert "UNTRAINED" in said
    assert "Only 2 groups" in said


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        load_run(tmp_path)


def test_a_run_of_another_version_is_neither_read_nor_trained_over(data: FusionData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fuse(data, folder, ["audio"], seeds=1)
    described = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**described, "format_version": 1}))
    with pytest.raises(UsageError, match=r"another version.*train it again"):
        load_run(folder)
    with pytest.raises(UsageError, match=r"another version.*--replace"):
        fuse(data, folder, ["audio"], seeds=1)
    assert list(fuse(data, folder, ["audio"], seeds=1, replace=True).heads) == ["audio"]


def test_a_run_of_two_targets_is_read_back_with_what_was_predicted(tmp_path: Path) -> None:
    data = load_data(kitchen(tmp_path / "cache", clips=80), tmp_path / "cache", INPUTS)
    run = fuse(data, tmp_path / "run", ["audio", "mlp"])
    read = load_run(tmp_path / "run", "mlp")
    assert list(read.heads) == ["mlp"]
    assert read.targets == data.targets
    one = read.heads["mlp"][1]
    for truth, target in zip(one.truth, data.truth, strict=True):
        np.testing.assert_array_equal(truth, target[data.test].numpy())
    clip_ids, logits = one.unlabelled()
    assert clip_ids == [f"P01_{number}" for number in range(60, 80)]
    assert logits.shape == (20, 9)
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    verb, noun = (
        part.argmax(axis=1) == truth for part, truth in zip(data.targets.split(one.logits), one.truth, strict=True)
    )
    line = table.query("head == 'mlp' and seed == 1").iloc[0]
    assert line[["verb_top1", "noun_top1", "action_top1"]].tolist() == pytest.approx(
        [verb.mean(), noun.mean(), (verb & noun).mean()]
    )
    row = summarise(run)[-1]
    assert row.score == pytest.approx(table.query("head == 'mlp'")["action_top1"].mean())
    assert row.low <= row.score <= row.high
    assert chance(run) == pytest.approx(1 / 20)


def test_a_run_of_several_classes_a_clip_says_how_it_was_trained(tmp_path: Path) -> None:
    for several, words in ((True, "sigmoid"), (False, "softmax")):
        cache = tmp_path / words
        data = load_data(sounds(cache, clips=80, several_in_train=several), cache, INPUTS)
        run = fuse(data, tmp_path / f"run {words}", ["mlp"], seeds=1)
        assert json.loads((run.folder / "run.json").read_text())["targets"][0]["sigmoid"] is several
        assert words in " ".join(notes(run))
        row = summarise(run)[0]
        assert row.score == row.measures["hit1"]
        assert row.low <= row.score <= row.high
        assert chance(run) == pytest.approx(data.truth[0][data.test].float().mean().item())
