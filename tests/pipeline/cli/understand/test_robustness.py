"""`avfuse understand robustness`: tables, notes, and messages."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from commands import call, refused
from kitchen_runs import QUICK, change, lines_of, train

from avfuse.features.errors import UsageError
from avfuse.manifests import load_manifest, save_manifest
from avfuse.pipeline.report.text_tables import percent, points_span
from avfuse.stages.fuse.analysis.robustness import robustness
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.runs.restore import job_from_result, load_head
from avfuse.stages.fuse.runs.run_folder import Run, load_run
from avfuse.stages.fuse.runs.summary import correct_matrix


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
