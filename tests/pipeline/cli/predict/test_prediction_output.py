"""Text, JSON, tables and plots of predictions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from predicted_clips import (
    CLASSES,
    HOP,
    RATE_HZ,
    WINDOW,
    WINDOWS,
    call,
    tone,
)

from avfuse.pipeline.prediction import Prediction
from avfuse.pipeline.report.predictions import as_frame, timeline


def test_a_timeline_shows_every_window_of_the_classes_with_the_highest_peaks(windows: Prediction) -> None:
    table = as_frame(windows)
    assert table["end"].tolist() == pytest.approx([end for _, end in WINDOWS])
    assert (table["label:low"] + table["label:high"]).tolist() == pytest.approx([1] * 4)
    (axes,) = timeline(windows, 5).axes
    assert {line.get_label() for line in axes.lines} == set(CLASSES)
    for line in axes.lines:
        assert line.get_xdata().tolist() == pytest.approx([0.5, 1.25, 2.0, 2.3])
        assert line.get_ydata().tolist() == pytest.approx((100 * table[f"label:{line.get_label()}"]).tolist())
    (axes,) = timeline(windows, 1).axes
    peak = max(CLASSES, key=lambda name: table[f"label:{name}"].max())
    assert [line.get_label() for line in axes.lines] == [peak]


def test_a_window_of_which_nothing_can_be_said_interrupts_the_line(windows: Prediction) -> None:
    lost = replace(windows.clips[1], probabilities={}, used=(), problem="no video frame can be decoded")
    found = replace(windows, clips=[windows.clips[0], lost, *windows.clips[2:]])
    (axes,) = timeline(found, 5).axes
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, True, False, False]
    row = as_frame(found).iloc[1]
    assert row["problem"] == "no video frame can be decoded"
    assert row[["label", "label_probability", "label:low"]].isna().all()
    (axes,) = timeline(replace(windows, clips=[lost]), 5).axes
    assert not axes.lines


@pytest.fixture(scope="module")
def odd(workplace: Path, media: Path) -> Path:
    """Sound alone, and what is no media file."""
    from scipy.io import wavfile

    wavfile.write(workplace / "sound.wav", RATE_HZ, tone(0.6, 320))
    return workplace


def test_a_line_per_clip_and_one_bad_clip_costs_itself_alone(odd: Path, media: Path, run: Path) -> None:
    good, sound = odd / "clips" / "high4.avi", odd / "sound.wav"
    bad = {
        media / "text.avi": "not predicted: not a readable media file",
        media / "empty.avi": "not predicted: file is empty (0 bytes)",
        media / "cut_short.avi": "cut short",
        media / "nowhere.avi": "not predicted: file not found",
    }
    said = call(*bad, sound, good, good, "--run", f"{run}:mlp")
    assert said.return_value is None
    lines = said.stdout.splitlines()
    assert len(lines) == len(bad) + 3
    for line, (path, problem) in zip(lines, bad.items(), strict=False):
        assert line.startswith(f"{path}: ")
        assert problem in line
    assert lines[4].startswith(f"{sound}: ")
    assert lines[4].endswith("(no video stream: predicted from the sound alone)")
    assert lines[5] == lines[6]
    assert lines[5].count(" %") == 2
    assert f"{run}:mlp, 2 seeds; 3 of 7 clips predicted" in said.stderr
    assert "s per clip" in said.stderr


def test_the_exit_code_is_1_where_nothing_can_be_said(odd: Path, media: Path, run: Path) -> None:
    said = call(odd / "sound.wav", media / "empty.avi", "--run", run, "--head", "video")
    assert said.return_value == 1
    assert "sound.wav: not predicted: no video stream (video takes the picture alone)" in said.stdout


def test_json_holds_all_that_is_known(
    predicted: Prediction, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = replace(predicted.clips[0], probabilities={}, used=(), problem="file is empty (0 bytes)")
    monkeypatch.setattr(
        "avfuse.pipeline.predict.predict", lambda *_, **__: replace(predicted, clips=[lost, predicted.clips[1]])
    )
    found = json.loads(call("x.avi", "--run", run, "--json", "--top", 1).stdout)
    assert (found["run"], found["row"], found["seeds"]) == (str(run), "mlp", [0, 1])
    assert found["targets"] == [{"name": "label", "classes": 2, "sigmoid": False}]
    first, second = found["clips"]
    assert first == {
        "path": str(lost.path), "start": None, "end": None, "top": None, "used": [], "notes": list(lost.notes),
        "problem": "file is empty (0 bytes)", "picture": None, "unexplained": None,
    }  # fmt: skip
    ((name, probability),) = predicted.clips[1].top(predicted.targets[0], 1)
    assert second["top"] == {"label": [{"class": name, "probability": probability}]}
    assert second["problem"] is None
    call("x.avi", "--run", run, "-o", tmp_path / "out.json", "--top", 1)
    assert json.loads((tmp_path / "out.json").read_text())["clips"] == found["clips"]


def test_files_hold_what_is_printed(
    windows: Prediction, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avfuse.pipeline.predict.predict", lambda *_, **__: windows)
    given = ["x.avi", "--run", run, "--window", WINDOW, "--hop", HOP]
    said = call(*given, "-o", tmp_path / "x.png")
    assert said.stdout.split() == [str(tmp_path / "x.png")]
    assert Image.open(tmp_path / "x.png").size[0] > 1000
    call(*given, "-o", tmp_path / "x.csv")
    table = pd.read_csv(tmp_path / "x.csv")
    assert table.columns.tolist() == [
        "path", "start", "end", "label", "label_probability", "label:high", "label:low", "used", "notes", "problem",
    ]  # fmt: skip
    assert len(table) == len(WINDOWS)
    call(*given, "-o", tmp_path / "x.txt")
    text = (tmp_path / "x.txt").read_text()
    assert text == call(*given).stdout
    for line, (start, end) in zip(text.splitlines(), WINDOWS, strict=True):
        assert f"long.avi {start:.2f}-{end:.2f} s: " in line
