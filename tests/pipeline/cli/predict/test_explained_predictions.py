"""Pictures of explained predictions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from predicted_clips import (
    HOP,
    WINDOW,
    WINDOWS,
    call,
)

from avfuse.manifests import load_manifest
from avfuse.pipeline.predict import predict
from avfuse.pipeline.prediction import Prediction
from avfuse.pipeline.provenance import describe_run
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training.overrides import TrainingOverrides


def test_every_predicted_clip_has_a_picture_of_its_own_name_and_its_numbers(
    workplace: Path, run: Path, media: Path, predicted: Prediction, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in ("high4.avi", "low4.avi"):
        shutil.copy(workplace / "clips" / file, other / file)
    clips = [workplace / "clips" / "high4.avi", media / "empty.avi", other / "high4.avi"]
    said = call(*clips, "--run", f"{run}:mlp", "--explain", tmp_path / "pictures", "--json")
    found = json.loads(said.stdout)["clips"]
    pictures = [tmp_path / "pictures" / name for name in ("1-high4.png", "2-high4.png")]
    assert [each["picture"] for each in found] == [str(pictures[0]), None, str(pictures[1])]
    assert found[1]["unexplained"] is None
    for picture in pictures:
        assert str(picture) in said.stderr
        assert Image.open(picture).format == "PNG"
    table = pd.read_csv(tmp_path / "pictures" / "explanations.csv")
    (target,) = predicted.targets
    evaluated = {each.path.name: each for each in predicted.clips}["high4.avi"]
    name, probability = evaluated.top(target, 1)[0]
    assert table["path"].unique().tolist() == [str(clips[0]), str(clips[2])]
    assert table["class"].unique().tolist() == [name]
    assert table["probability"].tolist() == pytest.approx([probability] * len(table), abs=1e-6)
    assert table.groupby(["path", "modality", "feature"]).size().tolist() == [1, 1, 2] * 2


def test_files_are_decoded_once_for_features_and_pictures(
    workplace: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "avfuse.pipeline.report.explain.network_inputs.prepare", lambda *_: pytest.fail("decoded again")
    )
    clip = workplace / "clips" / "high4.avi"
    (found,) = predict([clip], run, "video", device="cpu", workers=1, explain=tmp_path).clips
    assert found.picture == tmp_path / "1-high4.png"


def test_of_windows_the_surest_of_each_file_is_explained(
    workplace: Path, run: Path, windows: Prediction, tmp_path: Path
) -> None:
    long = workplace / "clips" / "long.avi"
    found = predict([long], run, "mlp", window=WINDOW, hop=HOP, device="cpu", workers=1, explain=tmp_path)
    surest = np.argmax([clip.probabilities["label"].max() for clip in windows.clips])
    assert [clip.picture is not None for clip in found.clips] == [number == surest for number in range(len(WINDOWS))]
    start, end = WINDOWS[surest]
    assert found.clips[surest].picture == tmp_path / f"1-long-{start:.2f}-{end:.2f}s.png"
    assert set(pd.read_csv(tmp_path / "explanations.csv")["start"]) == {start}


@pytest.mark.slow
def test_what_has_no_map_is_predicted_all_the_same_and_says_so(workplace: Path, run: Path, tmp_path: Path) -> None:
    clips = [workplace / "clips" / name for name in ("high4.avi", "low4.avi")]
    views = workplace / "runs" / "set" / "views"
    said = call(*clips, "--run", views, "--explain", tmp_path / "views")
    assert said.stdout == call(*clips, "--run", views).stdout
    assert len(list((tmp_path / "views").glob("*.png"))) == 2
    one = {"video": ["lite:frames"], "audio": ["lite:mfcc"]}
    manifest = load_manifest(workplace / "cache", "set")
    data = load_data(manifest, workplace / "cache", one)
    described = describe_run(manifest, "avfuse fuse", workplace / "cache")
    quick = TrainingOverrides(epochs=1, hidden="16")
    run_experiment(data, tmp_path / "run", ["audio"], 1, quick, described, progress=False)
    said = call(clips[0], "--run", tmp_path / "run", "--explain", tmp_path / "none")
    assert said.stdout.startswith(f"{clips[0]}: ")
    assert f"{clips[0]}: not explained: head 'audio' gives no grad-cam map (audio: one vector a clip" in said.stderr
    assert not list((tmp_path / "none").iterdir())
