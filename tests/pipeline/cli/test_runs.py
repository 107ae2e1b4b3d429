"""What is shown and given away of runs with several targets, or several classes a clip."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from made_up_sets import INPUTS, kitchen, sounds
from pages import read_page
from PIL import Image
from scipy.special import log_softmax

from avfuse.features.errors import UsageError
from avfuse.manifests import save_manifest
from avfuse.pipeline.cli.main import avfuse
from avfuse.stages.fuse.heads import head_names
from avfuse.stages.fuse.runs.run_folder import load_run

FEATURES = ["--video", INPUTS["video"][0], "--audio", INPUTS["audio"][0], "--device", "cpu"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(avfuse, [str(each) for each in arguments], catch_exceptions=False, standalone_mode=False)


def fuse(folder: Path, dataset: str, *arguments: object) -> Result:
    places = ["--cache", folder / "cache", "--runs", folder / "runs"]
    options = ["--fusion", "audio,video,average", "--seeds", 2, "--epochs", 2, "--name", "all"]
    return call("fuse", "--dataset", dataset, *FEATURES, *options, *places, *arguments)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs over a set of verbs and nouns, of more classes than a confusion matrix shows, and over one of sounds."""
    folder = tmp_path_factory.mktemp("work")
    kitchen(folder / "cache", clips=400, verbs=42, nouns=50)
    sounds(folder / "cache", clips=200)
    return folder


@pytest.fixture(scope="module")
def fused(workplace: Path) -> Result:
    return fuse(workplace, "kitchen")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--fusion", ","], "--fusion ,: nothing is named"),
        (["--fusion", "mlp,video,mlp"], "mlp is named twice"),
        (["--sweep", "lr=,"], "--sweep lr=,: nothing is named"),
        (["--sweep", "lr=1e-3,1e-4,1e-3"], "1e-3 is named twice"),
        (["--sweep", "lr="], "write NAME=VALUE"),
        (["--set", "lr"], "write NAME=VALUE"),
        (["--set", "lr=-1"], "lr=-1: input should be greater than 0"),
        (["--set", "hidden=0"], "hidden=0: write it like 512x256"),
        (["--set", "balanced=3by4"], "balanced=3by4: write it like 8x4"),
        (["--set", "without=smell"], "'video' or 'audio'"),
        (["--set", "speed=11"], "no setting is called 'speed'"),
        (["--fusion", "mlp", "--set", "avc=.5"], "avc needs a head that does"),
    ],
)
def test_what_cannot_be_trained_is_said_before_training(workplace: Path, given: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        fuse(workplace, "kitchen", "--name", "impossible", *given)
    assert not (workplace / "runs" / "kitchen" / "impossible" / "run.json").exists()


def test_help_names_every_head() -> None:
    text = " ".join(call("fuse", "--help").output.split())
    assert [head for head in head_names() if head not in text] == []


@pytest.fixture(scope="module")
def fused_sounds(workplace: Path) -> Result:
    return fuse(workplace, "sounds")


def run_of(workplace: Path, dataset: str = "kitchen") -> Path:
    return workplace / "runs" / dataset / "all"


def export(workplace: Path, *arguments: object, dataset: str = "kitchen") -> Result:
    return call("runs", "export", run_of(workplace, dataset), *arguments)


def test_the_table_has_a_column_per_target_beside_the_joint_accuracy(workplace: Path, fused: Result) -> None:
    assert "43 verb and 51 noun classes (chance 0.05 %)" in fused.output
    headings = next(line for line in fused.output.splitlines() if line.startswith("head ")).split("  ")
    shown = [heading.strip() for heading in headings if heading.strip()]
    assert shown[3:9] == ["action %", "95 % interval", "seed sd", "top-5 %", "verb %", "noun %"]
    assert "Action: verb and noun of a clip are right at once." in fused.output
    assert "20 unlabelled clips were predicted" in fused.output
    results = pd.read_csv(run_of(workplace) / "results.csv")
    assert {"action_top1", "action_top5", "verb_macro", "noun_nll", "validation_action_top1"} <= set(results.columns)


def test_pictures_of_many_classes_show_the_most_confused(workplace: Path, fused: Result) -> None:
    for name in ("confusion-matrix-verb.png", "confusion-matrix-noun.png"):
        assert name in fused.output
        width, height = Image.open(run_of(workplace) / name).size
        assert max(width, height) < 5000
    page = read_page(run_of(workplace) / "report.html")
    assert "The 30 of 43 classes" in page.text
    assert "The 30 of 51 classes" in page.text
    for number, all_of_them in ((0, 43), (1, 51)):
        (first, *_) = page.islands["figures"][f"confusion-{number}"]["data"]
        assert np.shape(first["z"]) == (30, 31)
        assert page.islands["page"]["confusions"][number]["all"] == all_of_them


def test_the_page_shows_every_target_of_a_clip(workplace: Path, fused: Result) -> None:
    page = read_page(run_of(workplace) / "report.html")
    run = load_run(run_of(workplace))
    one = next(iter(run.heads.values()))[0]
    verb, noun = (target.classes[truth[0]] for target, truth in zip(run.targets, one.truth, strict=True))
    labels = [f"verb{v} + noun{n}" for v, n in zip(*one.truth, strict=True)]
    assert f"{verb} + {noun}" in labels
    clips = page.islands["explorer"]["clips"]
    assert sorted(clip["label"] for clip in clips) == sorted(labels)
    for clip in clips:
        assert len(clip["right"]) == 3  # heads
        assert [len(of_head) for of_head in clip["top"]] == 3 * [2]  # targets
    assert len(page.islands["explorer"]["media"]) == 24
    assert "class_ids" not in page.text
    assert (run_of(workplace) / "report.html").stat().st_size < 10e6


@pytest.mark.slow
def test_the_page_of_several_classes_a_clip(workplace: Path, fused_sounds: Result) -> None:
    headings = next(line for line in fused_sounds.output.splitlines() if line.startswith("head "))
    assert all(heading in headings for heading in ("hit@1 %", "mAP %", "F1 %", "subset %", "lwlrap %"))
    page = read_page(run_of(workplace, "sounds") / "report.html")
    assert "a sigmoid for each class" in page.text
    assert any(" | class " in clip["label"] for clip in page.islands["explorer"]["clips"])
    assert "on the diagonal where any of them is predicted" in page.text


def test_report_writes_the_same_page(workplace: Path, fused: Result, tmp_path: Path) -> None:
    call("report", run_of(workplace), "-o", tmp_path / "again.html", "--cache", workplace / "cache")
    assert (tmp_path / "again.html").read_text() == (run_of(workplace) / "report.html").read_text()


def test_report_of_a_run_of_another_version_says_to_train_again(workplace: Path, fused: Result, tmp_path: Path) -> None:
    described = json.loads((run_of(workplace) / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**described, "format_version": 1}))
    with pytest.raises(UsageError, match=r"another version of avfuse.*train it again") as caught:
        call("report", tmp_path, "--cache", workplace / "cache")
    assert "\n" not in str(caught.value)
    (tmp_path / "old" / "run").mkdir(parents=True)
    (tmp_path / "run.json").rename(tmp_path / "old" / "run" / "run.json")
    assert "another version" in call("runs", "list", "--runs", tmp_path).output


def test_the_submission_holds_what_was_predicted(workplace: Path, fused: Result, tmp_path: Path) -> None:
    target = tmp_path / "test.json"
    said = export(workplace, "--head", "average", "--split", "unlabelled", "--format", "epic", "-o", target)
    assert "20 unlabelled clips, average, 2 seeds averaged" in said.output
    submission = json.loads(target.read_text())
    results = submission.pop("results")
    levels = {"sls_pt": 2, "sls_tl": 3, "sls_td": 3}
    assert submission == {"version": "0.2", "challenge": "action_recognition", **levels}
    assert list(results) == [f"P01_{number}" for number in range(380, 400)]

    seeds = load_run(run_of(workplace), "average").heads["average"]
    each = [one.unlabelled()[1][0].astype(float) for one in seeds]
    verb = log_softmax(np.mean([log_softmax(logits[:43]) for logits in each], axis=0))
    noun = log_softmax(np.mean([log_softmax(logits[43:]) for logits in each], axis=0))
    entry = results["P01_380"]
    assert list(entry) == ["verb", "noun", "action"]
    # official numbers run against the order of the classes
    assert list(entry["verb"]) == [str(number) for number in range(43)]
    assert list(entry["verb"].values()) == pytest.approx(verb[::-1], abs=1e-4)
    assert list(entry["noun"]) == [str(number) for number in range(51)]
    assert list(entry["noun"].values()) == pytest.approx(noun[::-1], abs=1e-4)
    pairs = {f"{v},{n}": np.exp(verb[42 - v] + noun[50 - n]) for v in range(43) for n in range(51)}
    best = sorted(pairs, key=pairs.__getitem__, reverse=True)[:100]
    assert list(entry["action"]) == best
    assert list(entry["action"].values()) == pytest.approx([pairs[pair] for pair in best], rel=1e-4)


def test_levels_and_seed_of_a_submission_may_be_chosen(workplace: Path, fused: Result, tmp_path: Path) -> None:
    target = tmp_path / "test.json"
    levels = ["--sls-pt", 1, "--sls-tl", 4, "--sls-td", 5]
    export(workplace, "--head", "audio", "--seed", 1, "--format", "epic", *levels, "-o", target)
    submission = json.loads(target.read_text())
    assert [submission[name] for name in ("sls_pt", "sls_tl", "sls_td")] == [1, 4, 5]
    one = load_run(run_of(workplace), "audio").heads["audio"][1]
    assert list(submission["results"]) == one.clip_ids
    noun = max(submission["results"][one.clip_ids[3]]["noun"].items(), key=lambda item: item[1])[0]
    assert int(noun) == 50 - one.logits[3, 43:].argmax()


def test_a_table_of_predictions(workplace: Path, fused: Result, tmp_path: Path) -> None:
    export(workplace, "--head", "average", "-o", tmp_path / "test.csv")
    table = pd.read_csv(tmp_path / "test.csv")
    assert table.columns.tolist() == [
        "clip_id", "verb", "verb_probability", "verb_truth", "noun", "noun_probability", "noun_truth",
    ]  # fmt: skip
    one = load_run(run_of(workplace)).heads["average"][0]
    assert table["clip_id"].tolist() == one.clip_ids
    assert table["verb_truth"].tolist() == [f"verb{number}" for number in one.truth[0]]
    assert table["noun_probability"].between(0, 1).all()
    export(workplace, "--head", "average", "--split", "unlabelled", "-o", tmp_path / "unlabelled.csv")
    unlabelled = pd.read_csv(tmp_path / "unlabelled.csv")
    assert unlabelled.columns.tolist() == ["clip_id", "verb", "verb_probability", "noun", "noun_probability"]
    assert len(unlabelled) == 20


def test_a_table_of_predictions_of_several_classes(workplace: Path, fused_sounds: Result, tmp_path: Path) -> None:
    export(workplace, "--head", "video", "--seed", 0, "-o", tmp_path / "sounds.csv", dataset="sounds")
    table = pd.read_csv(tmp_path / "sounds.csv")
    one = load_run(run_of(workplace, "sounds")).heads["video"][0]
    names = [[f"class {number}" for number in np.flatnonzero(row)] for row in one.truth[0]]
    assert [cell.split("|") for cell in table["labels_truth"]] == names
    best = one.logits.max(axis=1).astype(float)
    assert table["labels_probability"].tolist() == pytest.approx(1 / (1 + np.exp(-best)), abs=1e-4)


def test_a_submission_needs_verbs_and_nouns(workplace: Path, fused_sounds: Result, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs the targets verb and noun, and .*sounds/all has labels"):
        export(workplace, "--head", "video", "--format", "epic", "-o", tmp_path / "x.json", dataset="sounds")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({}, "does not give the official numbers of verb classes"),
        ({"verb": {"verb0": 0, "verb1": 1, "verb2": 2}, "noun": {}}, "all but 1, such as 'verb3'"),
        ({"verb": {f"verb{n}": n for n in range(5)}, "noun": {}}, "the heads know all but 1, such as 'verb4'"),
    ],
)
def test_a_submission_needs_the_official_numbers_of_all_classes(
    tmp_path: Path, numbers: dict[str, dict[str, int]], said: str
) -> None:
    manifest = kitchen(tmp_path / "cache", clips=80)
    save_manifest(tmp_path / "cache", replace(manifest, provenance={"class_ids": numbers} if numbers else {}))
    fuse(tmp_path, "kitchen", "--fusion", "video", "--seeds", 1)
    with pytest.raises(UsageError, match=said) as caught:
        export(tmp_path, "--head", "video", "--format", "epic", "-o", tmp_path / "x.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.json").exists()


def test_unlabelled_clips_that_lack_features_are_named(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path / "cache", clips=80)
    table = manifest.table.copy()
    table.loc[79, "clip_id"] = "P01_unseen"
    save_manifest(tmp_path / "cache", replace(manifest, table=table))
    fuse(tmp_path, "kitchen", "--fusion", "video", "--seeds", 1)
    said = export(tmp_path, "--head", "video", "--split", "unlabelled", "-o", tmp_path / "x.csv")
    assert "1 clips, such as P01_unseen" in said.output
    assert len(pd.read_csv(tmp_path / "x.csv")) == 19


def test_runs_are_listed_with_their_best_head(workplace: Path, fused: Result, fused_sounds: Result) -> None:
    lines = call("runs", "list", "--runs", workplace / "runs").output.splitlines()
    assert len(lines) == 2
    means = pd.read_csv(run_of(workplace) / "results.csv").groupby("head")["action_top1"].mean()
    assert (
        f"kitchen | audio, video, average | 2 seeds | best: {means.idxmax()} {100 * means.max():.1f} % action"
        in lines[0]
    )
    assert "% hit@1" in lines[1]
    assert "no runs in" in call("runs", "list", "--runs", workplace / "nowhere").output
