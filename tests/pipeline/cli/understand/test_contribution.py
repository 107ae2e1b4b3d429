"""`avfuse understand contribution`: values, resuming, and messages."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from commands import call
from kitchen_runs import QUICK, SOUNDS, change, lines_of
from made_up_sets import INPUTS

from avfuse.features.errors import UsageError
from avfuse.manifests import load_manifest
from avfuse.pipeline.report.text_tables import percent, points, points_span
from avfuse.stages.fuse.analysis import shapley
from avfuse.stages.fuse.analysis.shapley import contribution
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.run_folder import Run


class TestContribution:
    @pytest.fixture
    def understand(self, workplace: Path, tmp_path: Path) -> Callable[..., Result]:
        def understood(*arguments: object) -> Result:
            features = ["--video", "imported:picture", "--audio", ",".join(SOUNDS), "--device", "cpu"]
            quick = ["--epochs", 3, "--set", "hidden=16", "--seeds", 2]
            places = ["--cache", workplace / "cache", "--runs", tmp_path]
            return call("understand", "contribution", "--dataset", "kitchen", *features, *quick, *places, *arguments)

        return understood

    def test_values_are_those_of_the_function(
        self, workplace: Path, understand: Callable[..., Result], tmp_path: Path
    ) -> None:
        said = understand("--split", "audio").output
        cache = workplace / "cache"
        data = load_data(load_manifest(cache, "kitchen"), cache, {**INPUTS, "audio": SOUNDS})
        found = contribution(data, "mlp", QUICK, 2, split=["audio"], progress=False)
        folder = tmp_path / "kitchen" / "contribution-mlp"
        pd.testing.assert_frame_equal(pd.read_csv(folder / "contribution.csv"), found.players)
        pd.testing.assert_frame_equal(pd.read_csv(folder / "coalitions.csv", keep_default_na=False), found.coalitions)
        clips = pd.read_csv(folder / "clips.csv", index_col=["player", "clip_id"])
        np.testing.assert_array_equal(clips.loc["video", "seed 1"], found.clips["video", 1])
        for row in found.players.itertuples():
            (line,) = lines_of(said, row.player)[:1]
            assert f"{points(row.value)}  " in line
            assert points_span(row.low, row.high) in line
        for row in found.coalitions.iloc[1:].itertuples():
            assert percent(row.accuracy) in lines_of(said, row.players)[-1]
        assert f"add up to {points(found.players['value'].sum())}" in said
        described = json.loads((folder / "contribution.json").read_text())
        assert described["dataset"] == "kitchen"
        assert [spec["name"] for spec in described["features"]["audio"]] == SOUNDS
        assert {"command", "software", "created", "key"} <= described.keys()
        assert not (folder / ".training").exists()

    def test_a_second_call_trains_nothing(
        self, understand: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = understand().stdout
        monkeypatch.setattr(shapley, "train_jobs", lambda *_, **__: pytest.fail("trained again"))
        assert understand().stdout == first

    def test_one_that_was_broken_off_goes_on(
        self, understand: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        real, trained = shapley.train_jobs, []

        def counting(plans: Sequence[object], **rest: object) -> object:
            if len(trained) == 2:
                raise KeyboardInterrupt
            trained.append(len(plans))
            return real(plans, **rest)

        expected = understand("--name", "unbroken").stdout
        monkeypatch.setattr(shapley, "train_jobs", counting)
        with pytest.raises(click.Abort):
            understand()
        folder = tmp_path / "kitchen" / "contribution-mlp"
        assert not (folder / "contribution.json").exists()
        assert trained == [2, 2]
        trained.append(0)
        assert understand().stdout.splitlines()[:-1] == expected.splitlines()[:-1]
        assert trained == [2, 2, 0, 2]
        assert not (folder / ".training").exists()

    def test_other_settings_need_another_name_or_to_replace(
        self, understand: Callable[..., Result], tmp_path: Path
    ) -> None:
        understand("--seeds", 1)
        with pytest.raises(UsageError, match=r"seeds: 1 there, 2 here; epochs: 3 there, 2 here\).*--name.*--replace"):
            understand("--epochs", 2)
        understand("--epochs", 2, "--replace")
        described = json.loads((tmp_path / "kitchen" / "contribution-mlp" / "contribution.json").read_text())
        assert described["seeds"] == 2
        assert described["recipe"]["epochs"] == 2

    def test_a_run_of_heads_is_not_mixed_with_it(self, run: Run, understand: Callable[..., Result]) -> None:
        with pytest.raises(UsageError, match=r"all holds a run of avfuse fuse.*--name"):
            understand("--name", "all", "--runs", run.folder.parent.parent)

    def test_runs_are_still_listed(self, run: Run, understand: Callable[..., Result]) -> None:
        runs = run.folder.parent.parent
        understand("--seeds", 1, "--runs", runs)
        listed = call("runs", "list", "--runs", runs).output
        assert f"{run.folder}: kitchen" in listed
        assert "contribution" not in listed
        shutil.rmtree(runs / "kitchen" / "contribution-mlp")

    def test_controls_and_untrained_features_are_named(self, understand: Callable[..., Result], tmp_path: Path) -> None:
        assert "Control run" not in understand("--seeds", 1).output
        control = ["--seeds", 1, "--shuffle-labels", "--name", "control"]
        assert "Control run: the training labels were shuffled" in understand(*control).output
        change(tmp_path / "kitchen" / "control", "contribution.json", untrained=["imported:hiss"])
        assert "UNTRAINED weights in imported:hiss" in understand(*control).output

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["--fusion", "audio"], "2 to 10 players, and head 'audio' sees 1"),
            (["--fusion", "nothing"], "unknown fusion 'nothing'"),
            (["--split", "smell"], "'mlp' sees no smell"),
            (["--split", ","], "--split ,: nothing is named"),
            (["--set", "without=audio"], "without=audio"),
            (["--set", "speed=11"], "no setting is called 'speed'"),
            (["--set", "shuffle_labels=true"], "--shuffle-labels"),
            (["--dataset", "nowhere"], "no data set 'nowhere'"),
            (["--audio", "imported:nothing"], "'imported:nothing' is not cached"),
            (["--audio", "lite:mfcc,lite:chromagram"], "features lite:mfcc, lite:chromagram are not cached"),
            (["--name", "../up"], "cannot be the name of a run"),
        ],
    )
    def test_what_cannot_be_is_said_in_one_line(
        self, understand: Callable[..., Result], given: list[str], said: str, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=re.escape(said)) as caught:
            understand(*given)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.rglob("contribution.json"))


@pytest.mark.parametrize(
    "command", [["understand"], *(["understand", each] for each in ("contribution", "robustness", "gains"))]
)
def test_help_has_examples(command: list[str]) -> None:
    assert f"avfuse {' '.join(command)}" in call(*command, "--help").output.split("Examples:")[1]
