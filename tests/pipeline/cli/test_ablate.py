"""A table by one command: rows trained, tested, and beside what was published."""

import json
import re
from pathlib import Path

import ended_processes
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from commands import call, refused
from made_up_sets import kitchen
from pages import read_page

from avfuse.features.errors import UsageError
from avfuse.pipeline.cli.main import avfuse
from avfuse.pipeline.experiments import parallel
from avfuse.stages.fuse.evaluation.statistics import interval, paired_test
from avfuse.stages.fuse.runs import experiment
from avfuse.stages.fuse.runs.run_folder import load_run
from avfuse.stages.fuse.runs.summary import correct_matrix

TABLE = """
name: own
title: An own table
paper: Ours (2026)
data: [epic_kitchens_100]
settings: {hidden: "16", epochs: 4, patience: 4, lr: 1.0e-4, weight_decay: 0, video: flatten}
measures: [action_top1, verb_top1]
curves: true
notes: [A note of the paper's.]
rows:
  - {id: video, label: Video, head: video, video: [picture], audio: [sound]}
  - {id: both, label: Both, section: Fusion, head: mlp, video: [picture], audio: [sound], settings: {lr: 2.0e-2},
     baseline: video, published: {epic_kitchens_100: {action_top1: 47.2, verb_top1: 70.4}}}
  - {id: svc, label: SVC, section: Fusion, head: svc, video: [picture], audio: [sound], baseline: video}
  - {id: theirs, label: Theirs, section: Others, published: {epic_kitchens_100: {action_top1: 14.8}}}
  - {id: far, label: Far, section: Others, head: mlp, video: [picture], audio: [nothing], baseline: video}
"""
MAP = """
name: made-up
summary: Numbers.
roles: {picture: "imported:picture", sound: "imported:sound"}
marks: {sound: Sound is made up.}
"""
OWN = """
name: mine
title: My table
settings: {hidden: "16", epochs: 4}
rows:
  - {id: video, label: Video, head: video, video: [imported:picture], audio: [imported:sound]}
  - {id: both, label: Both, head: mlp, video: [imported:picture], audio: [imported:sound], baseline: video}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    kitchen(folder / "cache")
    (folder / "own.yaml").write_text(TABLE)
    (folder / "map.yaml").write_text(MAP)
    return folder


def ablate(place: Path, *arguments: object, table: str = "own.yaml", seeds: int = 2) -> Result:
    command = ["ablate", place / table, "--backbones", place / "map.yaml", "--dataset", "kitchen", "--device", "cpu"]
    command += ["--seeds", seeds, "--cache", place / "cache", "--runs", place / "runs", *arguments]
    return CliRunner().invoke(avfuse, [str(each) for each in command], catch_exceptions=False, standalone_mode=False)


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train_jobs", "choose_epochs", "refit_jobs"):
        monkeypatch.setattr(experiment, name, lambda *_: pytest.fail("trained again"))


@pytest.fixture(scope="module")
def said(place: Path) -> str:
    return ablate(place).output


@pytest.fixture(scope="module")
def table(place: Path, said: str) -> pd.DataFrame:
    return pd.read_csv(place / "runs" / "kitchen" / "own-made-up" / "table.csv", index_col="id")


def test_every_row_is_there_with_what_was_published(said: str, table: pd.DataFrame) -> None:
    assert list(table.index) == ["video", "both", "svc", "theirs", "far"]
    assert table["published_action_top1"].dropna().to_dict() == {"both": 47.2, "theirs": 14.8}
    assert table.loc["theirs", "missing"] == "published only"
    assert table.loc["far", "missing"] == "'made-up' has nothing for nothing"
    assert table.loc[["theirs", "far"], "tuned"].isna().all()
    assert re.search(r"Both +47\.2 / 70\.4 ", said)
    assert "A note of the paper's." in said
    assert "Sound is made up." in said


def test_numbers_are_those_of_the_trained_heads(place: Path, table: pd.DataFrame) -> None:
    runs = {path.parent.name.partition("-")[0]: load_run(path.parent) for path in place.glob("runs/*/heads/*/run.json")}
    tuned = {}
    for row, head in (("video", "video"), ("svc", "svc")):
        run = runs[head]
        chosen = table.loc[row, "chosen"]
        name = head if pd.isna(chosen) else f"{head},{chosen.replace(', ', ',')}"
        tuned[row] = correct_matrix(run.targets, run.heads[name])
        span = interval(tuned[row], run.groups)
        assert table.loc[row, ["tuned", "tuned_low", "tuned_high"]].tolist() == pytest.approx([*vars(span).values()])
    test = paired_test(tuned["svc"], tuned["video"], runs["svc"].groups)
    assert table.loc["svc", "difference"] == pytest.approx(test.difference)
    assert table.loc["svc", "p"] == pytest.approx(test.p)
    assert (table["p_holm"].dropna() >= table["p"].dropna()).all()


def test_the_tuned_heads_are_those_that_validation_prefers(place: Path, table: pd.DataFrame) -> None:
    (folder,) = (path.parent for path in place.glob("runs/*/heads/video-*/run.json"))
    scores: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*/choice-*.json")):
        curve = pd.DataFrame(json.loads(path.read_text())["curve"])
        scores.setdefault(path.parent.name, []).append(curve["validation_score"].max())
    assert [len(each) for each in scores.values()] == 6 * [2]
    chosen = "video," + table.loc["video", "chosen"].replace(", ", ",")
    assert sum(scores[chosen]) == max(map(sum, scores.values()))
    tested = {path.parent.name for path in folder.glob("*/seed-*.json")}
    assert tested == {chosen, "video,lr=1e-4,weight_decay=0"}


def test_the_papers_own_setting_is_a_column_of_its_own(place: Path, table: pd.DataFrame) -> None:
    """In the grid it is read from there, outside it is trained by itself; a head without epochs has no other."""
    assert len(list(place.glob("runs/*/heads/video-*"))) == 1
    assert len(list(place.glob("runs/*/heads/mlp-*"))) == 2
    (alone,) = (path.parent for path in place.glob("runs/*/heads/mlp-*/mlp/seed-0.json"))
    results = pd.read_csv(alone.parent / "results.csv")
    assert table.loc["both", "own"] == pytest.approx(results["action_top1"].mean())
    assert table.loc["svc", "own"] == table.loc["svc", "tuned"]
    assert pd.isna(table.loc["svc", "chosen"])


def test_what_is_not_as_the_paper_has_it_is_marked_and_gets_no_verdict(said: str, table: pd.DataFrame) -> None:
    assert table["flags"].dropna().tolist() == ["SP", "SP", "SP"]
    assert table["verdict"].isna().all()
    assert "S: other networks than the paper's (made-up: Numbers.)" in said
    assert "P: another protocol than the paper's (data set kitchen, the paper has epic_kitchens_100)." in said
    assert "they are neither confirmed nor contradicted here" in said


def test_files_tell_all_that_a_row_was_made_from(place: Path, said: str) -> None:
    folder = place / "runs" / "kitchen" / "own-made-up"
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.csv", "table.csv", "table.html", "table.json", "table.md"
    ]  # fmt: skip
    curves = pd.read_csv(folder / "curves.csv")
    assert curves.groupby(["row", "seed"])["epoch"].max().loc["video"].tolist() == [4, 4]
    assert "| Both | 47.2 / 70.4 |" in (folder / "table.md").read_text()
    page = read_page(folder / "table.html")
    for told in ("An own table", "test clips in", "Published numbers are for orientation", "imported:picture"):
        assert told in page.text
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert page.headings.count(1) == 1


def test_the_page_of_a_table_has_its_numbers_and_is_written_again(
    place: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    folder = place / "runs" / "kitchen" / "own-made-up"
    page = read_page(folder / "table.html")
    figures = page.islands["figures"]
    (bars,) = figures["scores"]["data"]
    scored = table.dropna(subset="tuned")
    assert bars["y"] == ["Video", "Fusion: Both", "Fusion: SVC"]
    assert bars["x"] == pytest.approx((100 * scored["tuned"]).tolist())
    drawn = {trace["meta"]["row"] for trace in figures["curves-score"]["data"]}
    assert drawn == {"Video", "Fusion: Both"}  # an SVC has no epochs
    assert "47.2 / 70.4" in page.text
    command = ["report", folder, "-o", tmp_path / "again.html", "--cache", place / "cache"]
    said = CliRunner().invoke(avfuse, [str(each) for each in command], catch_exceptions=False, standalone_mode=False)
    assert "again.html: " in said.output
    assert (tmp_path / "again.html").read_text() == (folder / "table.html").read_text()


def test_a_table_is_not_put_beside_runs(place: Path, said: str) -> None:
    folder = place / "runs" / "kitchen" / "own-made-up"
    with pytest.raises(UsageError, match="is a table, which has a page of its own"):
        CliRunner().invoke(
            avfuse, ["report", str(folder), f"{folder}:both"], catch_exceptions=False, standalone_mode=False
        )


def test_a_second_run_trains_nothing(place: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_training(monkeypatch)
    ablate(place, "--name", "again")
    again = pd.read_csv(place / "runs" / "kitchen" / "again" / "table.csv", index_col="id")
    pd.testing.assert_frame_equal(again, table)


def test_tables_share_trained_heads(place: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_training(monkeypatch)
    (place / "other.yaml").write_text(
        "{name: other, title: Other, paper: Ours, data: [ucf101], rows: [{id: one, label: One, head: video,\n"
        'video: [picture], audio: [sound], settings: {hidden: "16", epochs: 4, patience: 4, lr: 1.0e-4,\n'
        "weight_decay: 0, video: flatten}}]}"
    )
    ablate(place, table="other.yaml")
    other = pd.read_csv(place / "runs" / "kitchen" / "other-made-up" / "table.csv", index_col="id")
    assert other.loc["one", "tuned"] == table.loc["video", "tuned"]


def test_fewer_seeds_than_are_there_are_fewer(place: Path, table: pd.DataFrame) -> None:
    ablate(place, "--name", "one", seeds=1)
    one = pd.read_csv(place / "runs" / "kitchen" / "one" / "table.csv", index_col="id")
    assert one["tuned_seed_sd"].isna().all()
    assert "With one seed" in (place / "runs" / "kitchen" / "one" / "table.md").read_text()


@pytest.mark.slow
def test_settings_of_ones_own_go_before_the_papers_and_are_told(place: Path, said: str) -> None:
    told = ablate(place, "--epochs", 2, "--set", "hidden=8", "--grid", "none", "--name", "quick").output
    assert "hidden=8; epochs=2" in told
    curves = pd.read_csv(place / "runs" / "kitchen" / "quick" / "curves.csv")
    assert curves.groupby("row")["epoch"].max().loc["video"] == 2


def test_what_is_not_cached_is_named_with_its_command(place: Path, said: str) -> None:
    (place / "map2.yaml").write_text(
        MAP.replace('"imported:sound"}', '"imported:sound", nothing: "lite:frames:windows2,lite:mfcc uniform:4"}')
    )
    asked = ("--backbones", place / "map2.yaml", "--name", "partial")
    with pytest.raises(UsageError, match="3 features are not cached for 'kitchen'") as caught:
        ablate(place, *asked)
    assert "make extract DATASET=kitchen FEATURES=lite:frames:1of2,lite:frames:2of2,lite:mfcc FRAMES=uniform:4" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    ablate(place, *asked, "--partial")
    partial = pd.read_csv(place / "runs" / "kitchen" / "partial" / "table.csv", index_col="id")
    assert partial.loc["far", "missing"].startswith("not run: lite:frames:1of2 is not cached (make extract")
    assert np.isfinite(partial.loc["both", "tuned"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "speed=1"), "no head of this table has a setting 'speed'"),
        (("--set", "lr=-1", "--grid", "none"), "lr=-1: input should be greater than 0"),
        (("--backbones", "best"), "unknown map of backbones 'best': choose from lite, paper, quick"),
        (("--name", "../x"), "../x"),
        (("--dataset", "nothing"), "nothing"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(place: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        ablate(place, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: [", "is not YAML"),
        (TABLE.replace("id: theirs", "id: both"), "two rows are called both"),
        (TABLE.replace("baseline: video}", "baseline: nobody}"), "has the baseline nobody, which is no row"),
        (TABLE.replace("title:", "titel: x\ntitle:"), "titel: Extra inputs are not permitted"),
        ("{titel: x}", "name: Field required; title: Field required; rows: Field required; titel: Extra inputs"),
        (OWN.replace(", audio: [imported:sound]}", "}"), "row video names no features of audio"),
        (OWN.replace("baseline: video", "published: {ucf101: {top1: 1}}"), "so name the data sets of the table: data"),
    ],
)
def test_a_file_that_is_wrong_is_named(place: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UsageError, match=f"wrong.yaml.*{re.escape(message)}"):
        ablate(tmp_path, table="wrong.yaml")


def test_a_table_of_ones_own_names_features_and_has_no_paper(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(OWN)
    own = ["ablate", tmp_path / "mine.yaml", "--dataset", "kitchen", "--device", "cpu", "--seeds", 2, "--grid", "none"]
    own += ["--cache", place / "cache"]
    result = call(*own, "--runs", tmp_path, "--jobs", 1)
    assert "table's settings" in result.output
    assert "paper" not in result.output.replace("papers", "")
    assert "published" not in result.output.lower()
    table = pd.read_csv(tmp_path / "kitchen" / "mine-lite" / "table.csv", index_col="id", keep_default_na=False)
    assert table["flags"].tolist() == ["", ""]
    page = (tmp_path / "kitchen" / "mine-lite" / "table.html").read_text()
    assert "My table" in page
    described = json.loads((tmp_path / "kitchen" / "mine-lite" / "table.json").read_text())
    assert described["rows"]["both"]["settings"]["hidden"] == "16"  # and not what the map of networks prefers
    (tmp_path / "mine.yaml").write_text(OWN.replace("imported:sound", "sound"))
    assert re.search(r"'lite' has nothing for sound.*by their names, such as lite:mfcc", refused(*own))
    (tmp_path / "mine.yaml").write_text(OWN.replace("hidden", "hiden"))
    assert re.search("no head of this table has a setting 'hiden'", refused(*own))
    (tmp_path / "mine.yaml").write_text(OWN.replace("baseline: video", "settings: {dim: 8}"))
    assert re.search("row both: head 'mlp' has no setting 'dim'", refused(*own))


def test_without_a_table_they_are_listed() -> None:
    listed = CliRunner().invoke(avfuse, ["ablate"], standalone_mode=False).output
    assert "maivar-table2  MAiVAR, Table II" in listed
    assert "--backbones lite: " in listed


@pytest.mark.slow
def test_rows_in_processes_of_their_own_come_out_the_same(place: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    ablate(place, "--jobs", 2, "--runs", tmp_path)
    other = pd.read_csv(tmp_path / "kitchen" / "own-made-up" / "table.csv", index_col="id")
    columns = ["own", "own_low", "tuned", "tuned_high", "chosen", "difference", "p_holm"]
    pd.testing.assert_frame_equal(other[columns], table[columns], check_exact=False, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_is_ended_from_outside_is_told_of(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_train_in_worker", ended_processes.end)
    with pytest.raises(UsageError, match=r"the process that trained video was killed.*\(--jobs\)"):
        ablate(place, "--jobs", 2, "--runs", tmp_path)


def test_tables_are_listed_among_runs_and_their_rows_compared(place: Path, table: pd.DataFrame) -> None:
    def run(*arguments: object) -> str:
        command = ["runs", *map(str, arguments)]
        return CliRunner().invoke(avfuse, command, catch_exceptions=False, standalone_mode=False).output

    folder = place / "runs" / "kitchen" / "own-made-up"
    best = table["tuned"].idxmax()
    listed = run("list", "--runs", place / "runs")
    assert (
        f"{folder}: kitchen | own, made-up | 3 rows, 2 seeds | best: {best} {100 * table['tuned'].max():.1f} %"
        in listed
    )
    said = run("compare", f"{folder}:video", f"{folder}:svc")
    assert f"{100 * table.loc['svc', 'difference']:+.1f}" in said
    with pytest.raises(UsageError, match=r"has no trained row 'theirs': name one, .*:ROW \(video, both, svc\)"):
        run("compare", f"{folder}:theirs", f"{folder}:svc")
