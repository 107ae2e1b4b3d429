"""What a run says of the cost of its results."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from counted_features import IMPORTED, of_features, specs

from avfuse.pipeline.report import print_table
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.runs.summary import notes, summarise
from avfuse.stages.fuse.training.macs import backbone_macs
from avfuse.stages.fuse.training.overrides import TrainingOverrides


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=20)


def fuse(data: FusionData, folder: Path, heads: list[str], seeds: int = 2) -> Run:
    described = {"dataset": "made-up"}
    return run_experiment(data, folder, heads, seeds, TrainingOverrides(epochs=2), described, progress=False)


def test_every_result_says_what_it_costs(data: FusionData, tmp_path: Path) -> None:
    lite = of_features(data, video=specs("lite:frames", sampling="uniform:2"), audio=specs("lite:mfcc"))
    fuse(lite, tmp_path, ["audio", "mlp", "logreg"])
    table = pd.read_csv(tmp_path / "results.csv").query("seed == 1").set_index("head")
    once = backbone_macs(specs("lite:mfcc"))
    assert once is not None
    assert table["backbone_macs"].to_dict() == {"audio": once, "mlp": 3 * once, "logreg": 3 * once}
    assert table["macs"]["mlp"] == 2 * 1280 * 512 + 512 * 256 + 256 * 6
    assert table["training_macs"]["mlp"] == table["macs"]["mlp"]
    assert table[["training_macs", "seconds_per_epoch"]].isna().all(axis=1).to_dict() == {
        "audio": False,
        "mlp": False,
        "logreg": True,
    }
    assert (table["peak_memory_mib"].dropna() > 100).all()
    assert table["seconds"].notna().all()


def test_the_table_shows_what_is_not_known_as_a_dash(data: FusionData, tmp_path: Path) -> None:
    imported = of_features(data, video=[IMPORTED])
    run = fuse(imported, tmp_path, ["audio", "mlp"], seeds=1)
    audio, mlp = summarise(run)
    assert audio.backbone_macs is not None
    assert mlp.backbone_macs is None
    _, _, headings, _, *rows = print_table(run, [audio, mlp]).splitlines()
    assert "backbone GMACs" in headings
    assert rows[1].split()[-3] == "-"
    assert "multiply-adds" in " ".join(notes(run))


@pytest.mark.slow
def test_the_table_of_all_six_heads_fits_on_a_screen(data: FusionData, tmp_path: Path) -> None:
    run = fuse(data, tmp_path, ["audio", "video", "average", "mlp", "crossattn", "bottleneck"], seeds=1)
    _, _, headings, line, *_ = print_table(run, summarise(run)).splitlines()
    assert len(headings) == len(line) < 140
