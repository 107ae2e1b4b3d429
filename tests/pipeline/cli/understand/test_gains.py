"""`avfuse understand gains`: tables and messages."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from commands import call, refused
from kitchen_runs import QUICK, change, lines_of, train

from avfuse.pipeline.report.text_tables import points
from avfuse.stages.fuse.analysis.class_gains import class_gains
from avfuse.stages.fuse.runs.run_folder import Run, load_run


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
