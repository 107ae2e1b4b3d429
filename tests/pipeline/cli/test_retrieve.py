"""What `avfuse retrieve` prints, writes and refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from made_up_sets import INPUTS, kitchen, pairs

from avfuse.features.errors import UsageError
from avfuse.manifests import load_manifest
from avfuse.pipeline.cli.main import avfuse
from avfuse.pipeline.provenance import describe_run
from avfuse.stages.fuse.analysis.embeddings import embed_clips, split_indices
from avfuse.stages.fuse.analysis.retrieval import evaluate_retrieval
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.run_folder import load_run
from avfuse.stages.fuse.training.overrides import TrainingOverrides

ROW = "crossattn,avc=1"
QUICK = TrainingOverrides(dim=32, heads=2, epochs=6, lr=3e-3)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(avfuse, [str(each) for each in arguments], catch_exceptions=False, standalone_mode=False)


def train(folder: Path, dataset: str, name: str, avc: list[str]) -> Path:
    cache = folder / "cache"
    manifest = load_manifest(cache, dataset)
    described = describe_run(manifest, f"avfuse fuse --name {name}", cache)
    data, place = load_data(manifest, cache, INPUTS), folder / "runs" / dataset / name
    return run_experiment(data, place, ["crossattn"], 2, QUICK, described, sweep={"avc": avc}, progress=False).folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    pairs(folder / "cache", clips=120)
    kitchen(folder / "cache", clips=80)
    return folder


@pytest.fixture(scope="module")
def run(workplace: Path) -> Path:
    return train(workplace, "pairs", "all", ["0", "1"])


def retrieve(workplace: Path, run: object, *arguments: object) -> str:
    return call("retrieve", run, "--cache", workplace / "cache", "--device", "cpu", *arguments).output


def test_the_table_has_both_ways_with_intervals_and_chance(workplace: Path, run: Path, tmp_path: Path) -> None:
    said = retrieve(workplace, run, "-o", tmp_path / "found.csv")
    table = pd.read_csv(tmp_path / "found.csv")
    assert set(table["row"]) == {ROW}
    assert table["from"].unique().tolist() == ["audio", "video"]
    assert table["to"].unique().tolist() == ["video", "audio"]
    assert (table["queries"] == 28).all()
    assert (table["candidates"] == 29).all()
    data = load_data(load_manifest(workplace / "cache", "pairs"), workplace / "cache", INPUTS)
    clips = split_indices(data, "test")
    every = embed_clips(load_run(run).heads[ROW], data, clips)
    groups = data.table["group"].to_numpy(dtype=object)[clips]
    expected = evaluate_retrieval(every, "video", [each[clips].numpy() for each in data.truth], groups).measures
    written = table[table["from"] == "video"].reset_index(drop=True)
    pd.testing.assert_frame_equal(written[expected.columns], expected)
    values = expected.set_index("measure")
    line = next(each for each in said.splitlines() if re.match(r"picture +sound +29 +recall@10 % ", each))
    assert line.split()[5:] == [
        f"{100 * values.loc['recall@10', part]:.1f}" if part != "-" else "-"
        for part in ("value", "low", "-", "high", "chance")
    ]
    assert re.search(r"sound +picture +29 +median rank +[\d.]+ +[\d.]+ - [\d.]+ +15\n", said)
    assert f"{ROW}, 2 seeds: 28 test clips with sound and picture" in said
    assert "Only 30 groups" not in said
    assert f"table in {tmp_path / 'found.csv'}" in said


def test_one_way_alone(workplace: Path, run: Path) -> None:
    said = retrieve(workplace, run, "--from", "video")
    assert re.search(r"^picture +sound ", said, re.MULTILINE)
    assert not re.search(r"^sound +picture ", said, re.MULTILINE)


def test_few_clips_and_clips_that_were_trained_on_are_said(workplace: Path, run: Path) -> None:
    kitchen_run = train(workplace, "kitchen", "all", ["1"])
    assert "Only 15 groups of test clips: the intervals are rough" in retrieve(workplace, kitchen_run)
    said = retrieve(workplace, run, "--split", "train")
    assert "90 clips that heads were trained on with sound and picture" in said
    assert "only --split test measures retrieval of new clips" in said
    assert "trained on clips of this split" not in retrieve(workplace, run)


def test_a_query_lists_what_is_nearest(workplace: Path, run: Path, tmp_path: Path) -> None:
    said = retrieve(workplace, f"{run}:{ROW}", "--query", "p11", "--top", "29", "-o", tmp_path / "near.csv")
    table = pd.read_csv(tmp_path / "near.csv")
    assert len(table) == 29
    assert table["similarity"].is_monotonic_decreasing
    assert "p7" not in set(table["clip_id"])  # has no picture
    assert "p3" in set(table["clip_id"])  # has no sound, but a picture
    assert table.loc[table["own"], "clip_id"].tolist() == ["p11"]
    labels = load_manifest(workplace / "cache", "pairs").table.set_index("clip_id")["label"]
    assert table["label"].tolist() == labels[table["clip_id"]].tolist()
    assert table["path"].tolist() == [
        str(workplace / "cache" / "media" / f"{each[1:]}.mp4") for each in table["clip_id"]
    ]
    own = table.loc[table["own"], "rank"].item()
    assert said.startswith(f"p11 ({labels['p11']}): the pictures nearest to its sound, of 29 test clips\n")
    assert f"its own picture is at rank {own:g} of 29" in said
    (line,) = [each for each in said.splitlines() if re.search(r"  p11  ", each)]
    assert line.split()[3:] == [labels["p11"], "own", table.loc[table["own"], "path"].item()]


def test_a_query_from_another_split_has_no_partner_among_the_clips(workplace: Path, run: Path, tmp_path: Path) -> None:
    said = retrieve(workplace, run, "--query", "p0", "--from", "video", "-o", tmp_path / "near.csv")
    table = pd.read_csv(tmp_path / "near.csv")
    assert len(table) == 5
    assert not table["own"].any()
    assert all(int(each[1:]) % 4 == 3 for each in table["clip_id"])
    assert "the sounds nearest to its picture, of 29 test clips" in said
    assert "its own sound is not among the test clips" in said
    everyone = retrieve(workplace, run, "--query", "p0", "--from", "video", "--split", "all")
    assert re.search(r"its own sound is at rank [\d.]+ of 119\n", everyone)


def test_rows_are_named_in_three_ways(workplace: Path, run: Path, tmp_path: Path) -> None:
    expected = retrieve(workplace, run)
    assert retrieve(workplace, f"{run}:{ROW}") == expected
    assert retrieve(workplace, run, "--head", ROW) == expected
    (tmp_path / "table.json").write_text(json.dumps({"rows": {"paired": {"folder": str(run), "tuned": ROW}}}))
    assert retrieve(workplace, f"{tmp_path}:paired") == expected
    assert retrieve(workplace, tmp_path, "--head", "paired") == expected


def test_classes_of_several_targets_are_joined(workplace: Path) -> None:
    run = train(workplace, "kitchen", "all", ["1"])
    said = retrieve(workplace, run, "--query", "P01_3")
    assert re.match(r"P01_3 \(verb\d \+ noun\d\): the pictures nearest", said)


def test_what_cannot_be_is_said_in_one_line(workplace: Path, run: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        with pytest.raises(UsageError) as caught:
            retrieve(workplace, *arguments)
        message = str(caught.value)
        assert "\n" not in message
        return message

    assert "crossattn,avc=0 was trained without audio-video contrast: train with --set avc=0.5" in refused(
        f"{run}:crossattn,avc=0"
    )
    assert f"holds no row 'mlp': it has crossattn,avc=0, {ROW}" in refused(run, "--head", "mlp")
    assert "is no run" in refused(tmp_path / "nowhere")
    assert "--query p1110: no such clip; similar ids are p111, p110, p11" in refused(run, "--query", "p1110")
    assert "the query has no audio feature: search --from video" in refused(run, "--query", "p3")
    assert "--top is the number of clips listed" in refused(run, "--top", 3)
    assert "is a folder: name a file in it" in refused(run, "-o", tmp_path)
    several = train(workplace, "pairs", "several", ["0.5", "1"])
    assert f"several rows with embeddings: name one, --head ROW (crossattn,avc=0.5, {ROW})" in refused(
        several, "--query", "p11"
    )
    assert np.count_nonzero(["recall@1 %" in line for line in retrieve(workplace, several).splitlines()]) == 4
