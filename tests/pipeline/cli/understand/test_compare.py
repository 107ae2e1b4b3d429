"""`avfuse runs compare`: differences, paired tests, and messages."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import call, refused
from kitchen_runs import QUICK, change, train

from avfuse.manifests import load_manifest, save_manifest
from avfuse.pipeline.report.comparison import compare
from avfuse.pipeline.report.run_reference import read_run_ref
from avfuse.pipeline.report.text_tables import aligned, p_value, percent, points, points_span
from avfuse.stages.fuse.evaluation.statistics import holm, interval, paired_test
from avfuse.stages.fuse.runs.run_folder import Run, load_run
from avfuse.stages.fuse.runs.summary import correct_matrix
from avfuse.stages.fuse.training.overrides import TrainingOverrides


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
