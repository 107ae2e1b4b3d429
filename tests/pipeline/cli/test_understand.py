"""What `avfuse understand` and `avfuse runs compare` print, write and refuse."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from commands import call, refused
from made_up_sets import DIM, INPUTS, kitchen, sounds

from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.cache.maintenance.imports import ImportDescription
from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest, load_manifest, save_manifest
from avfuse.pipeline.provenance import describe_run
from avfuse.pipeline.report.comparison import compare
from avfuse.pipeline.report.run_reference import read_run_ref
from avfuse.pipeline.report.text_tables import aligned, p_value, percent, points, points_span
from avfuse.stages.fuse.analysis import shapley
from avfuse.stages.fuse.analysis.class_gains import class_gains
from avfuse.stages.fuse.analysis.robustness import robustness
from avfuse.stages.fuse.analysis.shapley import contribution
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.evaluation.statistics import holm, interval, paired_test
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.restore import job_from_result, load_head
from avfuse.stages.fuse.runs.run_folder import Run, load_run
from avfuse.stages.fuse.runs.summary import correct_matrix
from avfuse.stages.fuse.training.overrides import TrainingOverrides

QUICK = TrainingOverrides(epochs=3, hidden="16")
SOUNDS = ["imported:sound", "imported:hiss"]


def add_hiss(cache: Path, manifest: Manifest) -> None:
    """A feature of the sound that tells nothing."""
    spec = ImportDescription("hiss", "audio", "made up", dtype="float32").spec((DIM,))
    rows = np.random.default_rng(0).standard_normal((len(manifest), DIM)).astype(np.float32)
    done = [(clip, MISSING) for clip in manifest.clips()]
    FeatureStore(cache, manifest.collection, spec).commit(ChunkResult(spec, done=done, data=list(rows), no_audio=[]))


def train(
    folder: Path,
    name: str,
    heads: Sequence[str] = ("audio", "video", "mlp"),
    seeds: int = 2,
    training: TrainingOverrides = QUICK,
    dataset: str = "kitchen",
    memory_bytes: int | None = None,
) -> Path:
    """A run without its page."""
    manifest = load_manifest(folder / "cache", dataset)
    data = load_data(manifest, folder / "cache", INPUTS, memory_bytes=memory_bytes)
    described = describe_run(manifest, f"avfuse fuse --name {name}", folder / "cache")
    runs = folder / "runs" / dataset / name
    return run_experiment(data, runs, list(heads), seeds, training, described, progress=False).folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    cache = folder / "cache"
    add_hiss(cache, kitchen(cache, clips=160))
    sounds(cache, clips=80)
    return folder


@pytest.fixture(scope="module")
def run(workplace: Path) -> Run:
    return load_run(train(workplace, "all"))


@pytest.fixture(scope="module")
def data(workplace: Path) -> FusionData:
    return load_data(load_manifest(workplace / "cache", "kitchen"), workplace / "cache", INPUTS)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """Of the run, to be damaged."""
    return Path(shutil.copytree(run.folder, tmp_path / "copy"))


def change(folder: Path, name: str, **values: object) -> None:
    """Something else in a description."""
    described = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**described, **values}))


def lines_of(text: str, *beginnings: str) -> list[str]:
    return [line for line in text.splitlines() if re.split(r"  +", line)[: len(beginnings)] == list(beginnings)]


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


class TestRobustness:
    def understand(self, folder: Path, workplace: Path, *arguments: object) -> Result:
        places = ["--cache", workplace / "cache", "--device", "cpu"]
        return call("understand", "robustness", folder, *places, *arguments)

    def test_rows_of_both_modalities_are_tested_as_the_function_does(
        self, workplace: Path, run: Run, data: FusionData
    ) -> None:
        said = self.understand(run.folder, workplace).output
        written = pd.read_csv(run.folder / "robustness.csv", keep_default_na=False, na_values={"strength": [""]})
        assert written["row"].unique().tolist() == ["mlp"]
        heads = run.heads["mlp"]
        found = robustness(job_from_result(heads[0], data), [load_head(one, data) for one in heads]).table
        pd.testing.assert_frame_equal(written.drop(columns="row"), found, check_dtype=False)
        assert f"mlp, 2 seeds: {percent(found['accuracy'].iloc[0])} % as the clips are" in said
        for row in found.iloc[1:].itertuples():
            strength = {"noise": f"{row.strength:g} dB", "shift": f"{100 * row.strength:g} %"}.get(row.change, "")
            (line,) = [each for each in lines_of(said, row.modality, row.change) if f"  {strength}  " in each]
            assert line.endswith(f" {points_span(row.low, row.high)}")
            assert f"{percent(row.accuracy)}  " in line
        measured = [one.described["metrics"]["action_top1_without_video"] for one in heads]
        assert found["accuracy"].iloc[1] == pytest.approx(np.mean(measured))

    def test_named_rows_and_another_place(self, workplace: Path, run: Run, tmp_path: Path) -> None:
        self.understand(run.folder, workplace, "--head", "audio", "--head", "video", "-o", tmp_path / "tables")
        table = pd.read_csv(tmp_path / "tables" / "robustness.csv")
        seen = table.dropna(subset="modality").groupby("row", sort=False)["modality"].unique()
        assert {row: names.tolist() for row, names in seen.items()} == {"audio": ["audio"], "video": ["video"]}

    def test_rows_that_are_never_shown_a_modality_are_not_of_both(self, workplace: Path) -> None:
        deaf = train(workplace, "deaf", ["mlp"], 1, QUICK.updated({"without": "audio"}))
        with pytest.raises(UsageError, match=r"no row of .*deaf takes both modalities"):
            self.understand(deaf, workplace)
        said = self.understand(deaf, workplace, "--head", "mlp").output
        assert lines_of(said, "video", "dropped")
        assert lines_of(said, "audio", "dropped") == []
        assert "With one seed, how much seeds vary is unknown" in said

    def test_a_run_that_streamed_its_features_needs_the_same_memory(self, workplace: Path) -> None:
        streamed = train(workplace, "streamed", ["mlp"], 2, memory_bytes=0)
        with pytest.raises(UsageError, match="name its --memory"):
            self.understand(streamed, workplace)
        said = self.understand(streamed, workplace, "--memory", 0).output
        hit = correct_matrix(load_run(streamed).targets, load_run(streamed).heads["mlp"])
        assert f"mlp, 2 seeds: {percent(hit.mean())} % as the clips are" in said

    def test_controls_and_untrained_features_are_named(self, workplace: Path, copy: Path) -> None:
        change(copy, "run.json", untrained=["imported:sound"])
        said = self.understand(copy, workplace, "--head", "audio").output
        assert "UNTRAINED weights in imported:sound" in said
        assert "Control run" not in said

    def test_what_cannot_be_is_said_in_one_line(self, workplace: Path, run: Run, copy: Path, tmp_path: Path) -> None:
        places = ["--cache", workplace / "cache"]
        assert "holds no row 'bottleneck': it has audio, video, mlp" in refused(
            "understand", "robustness", run.folder, "--head", "bottleneck", *places
        )
        assert "holds no run" in refused("understand", "robustness", tmp_path / "nowhere", *places)
        (copy / "mlp" / "seed-1.safetensors").unlink()
        assert "seed-1.safetensors is not there" in refused("understand", "robustness", copy, *places)
        shutil.rmtree(copy / "mlp")
        message = refused("understand", "robustness", copy, *places)
        assert message.endswith("takes both modalities: name rows with --head (audio, video)")
        for row in ("audio", "video"):
            shutil.rmtree(copy / row)
        assert "holds no trained head yet" in refused("understand", "robustness", copy, *places)

    def test_features_that_are_gone_or_changed_are_named(self, workplace: Path, run: Run, tmp_path: Path) -> None:
        cache = Path(shutil.copytree(workplace / "cache", tmp_path / "cache"))
        manifest = load_manifest(cache, "kitchen")
        table = manifest.table.copy()
        table.loc[table.index[:8], "split"] = "test"
        save_manifest(cache, replace(manifest, table=table))
        message = refused("understand", "robustness", run.folder, "--cache", cache)
        assert "clips of 'kitchen' or their features have changed" in message
        assert "--replace" in message
        (folder,) = (cache / "kitchen").glob("imported*sound-*")
        shutil.rmtree(folder)
        message = refused("understand", "robustness", run.folder, "--cache", cache)
        assert re.search(r"feature 'imported:sound@\w+' is not cached for 'kitchen'", message)


class TestGains:
    def test_tables_are_those_of_the_function(self, run: Run, tmp_path: Path) -> None:
        said = call("understand", "gains", run.folder, "--before", "video", "--after", "mlp", "-o", tmp_path).output
        found = class_gains(run.targets, run.heads["video"], run.heads["mlp"])
        for file, table in (("gains.csv", found.classes), ("confusions.csv", found.confusions)):
            written = pd.read_csv(tmp_path / file)
            assert written[["row_before", "row_after"]].drop_duplicates().to_numpy().tolist() == [["video", "mlp"]]
            expected = table.reset_index(drop=True)
            pd.testing.assert_frame_equal(
                written.drop(columns=["row_before", "row_after"]), expected, check_dtype=False
            )
        for target, classes in found.classes.groupby("target"):
            clips, fixed, broken = classes[["clips", "fixed", "broken"]].sum()
            assert f"{target}: of {clips:.0f} test clips {fixed:.1f} are fixed and {broken:.1f} broken." in said
        gaining, losing = said.split("Classes that lose")
        for row in found.classes.rename(columns={"class": "name"}).itertuples():
            part = gaining if row.difference > 0 else losing.split("Confusions")[0]
            lines = lines_of(part, row.target, row.name)
            assert [points(row.difference) in line for line in lines] == [True] * (row.difference != 0)

    def test_ten_at_most_are_shown_and_counted(self, run: Run) -> None:
        said = call("understand", "gains", run.folder, "--before", "audio", "--after", "mlp").output
        pairs = class_gains(run.targets, run.heads["audio"], run.heads["mlp"]).confusions
        fewer = pairs[pairs["difference"] < 0]
        assert len(fewer) > 10
        assert f"Confusions that are fewer, the 10 largest of {len(fewer)}:" in said
        part = said.split("Confusions that are fewer")[1].split("Confusions that are more")[0]
        assert len(lines_of(part, "verb")) + len(lines_of(part, "noun")) == 10

    def test_the_row_before_may_be_of_another_run(self, workplace: Path, run: Run, tmp_path: Path) -> None:
        other = train(workplace, "other", ["mlp"], training=QUICK.updated({"lr": 1e-2}))
        change(other, "run.json", untrained=["imported:sound"])
        arguments = ["--before", "mlp", "--after", "mlp", "--run-before", other, "-o", tmp_path]
        said = call("understand", "gains", run.folder, *arguments).output
        assert f"From {other}:mlp to {run.folder}:mlp" in said
        assert f"{other}:mlp: UNTRAINED weights in imported:sound" in said
        found = class_gains(run.targets, load_run(other).heads["mlp"], run.heads["mlp"])
        differences = pd.read_csv(tmp_path / "gains.csv")["difference"]
        assert differences.tolist() == pytest.approx(found.classes["difference"].tolist())
        shutil.rmtree(other)

    def test_what_cannot_be_is_said_in_one_line(self, workplace: Path, run: Run) -> None:
        gained = ["understand", "gains", run.folder]
        assert "--before and --after are both 'mlp'" in refused(*gained, "--before", "mlp", "--after", "mlp")
        assert "holds no row 'x': it has audio, video, mlp" in refused(*gained, "--before", "x", "--after", "mlp")
        heard = train(workplace, "heard", ["audio"], 1, dataset="sounds")
        message = refused(*gained, "--before", "audio", "--after", "mlp", "--run-before", heard)
        assert "is of data set 'sounds'" in message
        assert "compare runs of one data set" in message


class TestCompare:
    @pytest.fixture(scope="class")
    @classmethod
    def quicker(cls, workplace: Path, run: Run) -> Path:
        """With another learning rate, a seed more and a row less."""
        return train(workplace, "quicker", ["video", "mlp", "average"], 3, QUICK.updated({"lr": 1e-2}))

    def test_two_rows(self, run: Run) -> None:
        said = call("runs", "compare", f"{run.folder}:video", f"{run.folder}:mlp").output
        video, mlp = (correct_matrix(run.targets, run.heads[row]) for row in ("video", "mlp"))
        test = paired_test(mlp, video, run.groups)
        spans = [interval(each, run.groups) for each in (video, mlp)]
        (line,) = [each for each in said.splitlines() if each.endswith(f"  {p_value(test.p)}")]
        assert re.split("  +", line.strip()) == [
            *(text for each in spans for text in (percent(each.mean), f"{percent(each.low)} - {percent(each.high)}")),
            points(test.difference),
            points_span(test.low, test.high),
            p_value(test.p),
        ]
        assert "Holm" not in said
        assert ["head", "A", "video"] in [re.split("  +", each) for each in said.splitlines()]
        nll = [np.mean([one.described["metrics"]["verb_nll"] for one in run.heads[row]]) for row in ("video", "mlp")]
        assert re.search(rf"verb_nll +{nll[0]:.2f} +{nll[1]:.2f} +[+]?{nll[1] - nll[0]:.2f}", said)

    def test_rows_of_two_runs_that_are_called_the_same(self, run: Run, quicker: Path) -> None:
        found = compare(read_run_ref(str(run.folder)), read_run_ref(str(quicker)))
        other = load_run(quicker)
        assert found.accuracies["row"].tolist() == ["video", "mlp"]
        tests = [
            paired_test(
                correct_matrix(run.targets, other.heads[row][:2]),
                correct_matrix(run.targets, run.heads[row]),
                run.groups,
            )
            for row in ("video", "mlp")
        ]
        assert found.accuracies["difference"].tolist() == [each.difference for each in tests]
        assert found.accuracies["holm"].tolist() == holm([each.p for each in tests])
        said = call("runs", "compare", run.folder, quicker).output
        assert "p (Holm)" in said
        assert f"Only in {run.folder}: audio." in said
        assert f"Only in {quicker}: average." in said
        assert "mlp: compared by the 2 common seeds." in said
        differing = found.differing.set_index("what")[["a", "b"]].apply(tuple, axis=1).to_dict()
        assert differing["lr"] == (str(run.heads["mlp"][0].described["recipe"]["lr"]), "0.01")
        assert differing["seeds"] == ("0, 1", "0, 1, 2")
        assert differing["command"] == ("avfuse fuse --name all", "avfuse fuse --name quicker")
        assert len(differing) == 3

    def test_a_run_of_one_row_needs_no_row_named(self, run: Run, workplace: Path) -> None:
        one = train(workplace, "one", ["logreg"], training=TrainingOverrides())
        assert read_run_ref(str(one)).row == "logreg"
        found = compare(read_run_ref(f"{run.folder}:mlp"), read_run_ref(str(one)))
        assert found.accuracies["row"].tolist() == ["mlp / logreg"]
        message = refused("runs", "compare", run.folder, one)
        assert "no row in common" in message
        assert f"{run.folder}:audio (audio, video, mlp)" in message
        shutil.rmtree(one)

    def test_features_and_versions_that_differ_are_named(self, run: Run, copy: Path) -> None:
        described = json.loads((copy / "run.json").read_text())
        (sound,) = described["features"]["audio"]
        sound["input"] = {**sound["input"], "source": "elsewhere"}
        sound["key"] = "0123abcd"
        described["features"]["video"] = []
        described["software"]["torch"] = "1.0"
        (copy / "run.json").write_text(json.dumps(described))
        found = compare(read_run_ref(f"{run.folder}:mlp"), read_run_ref(f"{copy}:mlp"))
        differing = found.differing.set_index("what")["b"].to_dict()
        assert differing.pop("audio features") == "imported:sound@0123abcd"
        assert differing.pop("input.source of imported:sound") == "elsewhere"
        assert differing.pop("video features") == "-"
        assert differing.pop("torch (version)") == "1.0"
        assert differing == {}

    def test_clips_in_another_order_are_paired_by_id(self, run: Run, copy: Path) -> None:
        order = np.random.default_rng(0).permutation(len(run.groups))
        for file in copy.glob("mlp/*.npz"):
            with np.load(file) as saved:
                arrays = dict(saved)
            for name in ("clip_id", "logits", "target_verb", "target_noun"):
                arrays[name] = arrays[name][order]
            np.savez(file, **arrays)
        found = compare(read_run_ref(f"{run.folder}:mlp"), read_run_ref(f"{copy}:mlp"))
        assert found.accuracies[["difference", "low", "high"]].to_numpy().tolist() == [[0, 0, 0]]
        assert found.accuracies["p"].tolist() == [1]

    def test_groups_are_those_of_the_first(self, run: Run, copy: Path) -> None:
        change(copy, "run.json", test_groups=["one"] * len(run.groups))
        found = compare(read_run_ref(f"{run.folder}:mlp"), read_run_ref(f"{copy}:mlp"))
        assert found.accuracies["b_low"].tolist() == found.accuracies["a_low"].tolist()
        assert "Test clips have other groups in B: the groups of A are used." in found.notes

    def test_controls_and_untrained_features_are_named(self, run: Run, copy: Path) -> None:
        change(copy, "run.json", untrained=["imported:sound"], training={"shuffle_labels": True})
        said = call("runs", "compare", run.folder, copy).output
        assert "B: UNTRAINED weights in imported:sound" in said
        assert "B: Control run" in said
        assert "A: UNTRAINED" not in said

    def test_what_cannot_be_compared_is_said_in_one_line(
        self, workplace: Path, run: Run, copy: Path, tmp_path: Path
    ) -> None:
        mlp = f"{run.folder}:mlp"
        assert "x is no run" in refused("runs", "compare", mlp, tmp_path / "x")
        assert "holds no row 'x': it has audio, video, mlp" in refused("runs", "compare", f"{run.folder}:x", mlp)
        heard = train(workplace, "heard", ["audio"], 1, dataset="sounds")
        assert "of 'sounds': compare runs of one data set" in refused("runs", "compare", mlp, heard)
        (copy / "audio" / "seed-0.json").rename(copy / "audio" / "seed-7.json")
        for kind in ("npz", "curve.csv"):
            (copy / "audio" / f"seed-0.{kind}").rename(copy / "audio" / f"seed-7.{kind}")
        (copy / "audio" / "seed-1.json").unlink()
        assert "no seed in common" in refused("runs", "compare", f"{run.folder}:audio", f"{copy}:audio")

    def test_other_test_clips_are_counted(self, workplace: Path, run: Run, tmp_path: Path) -> None:
        cache = Path(shutil.copytree(workplace / "cache", tmp_path / "cache"))
        manifest = load_manifest(cache, "kitchen")
        table = manifest.table.copy()
        tested = table.index[table["split"] == "test"]
        table.loc[tested[:3], "split"] = "train"
        save_manifest(cache, replace(manifest, table=table))
        other = train(tmp_path, "other", ["mlp"], 1)
        message = refused("runs", "compare", f"{run.folder}:mlp", other)
        assert f"of {len(tested)} and {len(tested) - 3} they share {len(tested) - 3}" in message


def test_tables_are_aligned_and_numbers_have_their_signs() -> None:
    assert [points(share) for share in (0.1234, -0.0001, np.nan)] == ["+12.3", "+0.0", "-"]
    assert [p_value(p) for p in (0.00049, 0.0714)] == ["< 0.001", "0.071"]
    table = pd.DataFrame({"name": ["a", "long one"], "%": ["10.0", "5.0"]})
    assert aligned(table, ["name"]).splitlines() == [
        "name         %",
        "--------------",
        "a         10.0",
        "long one   5.0",
    ]


@pytest.mark.parametrize(
    "command", [["understand"], *(["understand", each] for each in ("contribution", "robustness", "gains"))]
)
def test_help_has_examples(command: list[str]) -> None:
    assert f"avfuse {' '.join(command)}" in call(*command, "--help").output.split("Examples:")[1]
