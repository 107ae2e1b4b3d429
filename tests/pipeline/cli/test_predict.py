"""`avfuse predict`: media files in, the probabilities of a data set's evaluation out."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from made_up_sets import INPUTS, kitchen
from PIL import Image

from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.media import write_video
from avfuse.features.spec import FeatureSpec
from avfuse.manifests import Manifest, load_manifest, save_manifest
from avfuse.pipeline.predict import predict
from avfuse.pipeline.prediction import Prediction
from avfuse.pipeline.provenance import describe_run
from avfuse.pipeline.report.predictions import as_frame, print_summary, timeline
from avfuse.stages.extract.run import extract
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.predict import load_predictions, probabilities
from avfuse.stages.fuse.training.overrides import TrainingOverrides

CLASSES, GROUPS, RATE_HZ, FPS = ("low", "high"), 6, 16000, 10
VIEWS = ["lite:frames:1of2", "lite:frames:2of2", "lite:mfcc", "lite:mfcc:h"]
WINDOW, HOP, LONG_SECONDS = 1.0, 0.75, 2.8
ONE_CPU = ["--device", "cpu", "--workers", 1]
WINDOWS = [(0.0, 1.0), (0.75, 1.75), (1.5, 2.5), (1.8, 2.8)]


def pictures(seconds: float, seed: int, level: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 120, (round(seconds * FPS), 48, 64, 3))
    return (noise + level).astype(np.uint8)


def tone(seconds: float, frequency_hz: float) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def write_clips(folder: Path) -> pd.DataFrame:
    """Two classes, told apart by light and pitch; of the test clips one is silent and one has no sound. Windows of a
    longer file are unlabelled."""
    folder.mkdir()
    rows = []
    for number, label in enumerate(CLASSES):
        for group in range(GROUPS):
            name = f"{label}{group}.avi"
            sound = tone(0.6, (300, 1500)[number] + 20 * group) * (group != 5)
            options = {} if (label, group) == ("low", 4) else {"waveform": sound, "sample_rate_hz": RATE_HZ}
            write_video(folder / name, pictures(0.6, 10 * number + group, 100 * number), fps=FPS, **options)
            rows.append((name, None, None, label, "test" if group > 3 else "train", f"g{group}"))
    long = np.concatenate([tone(1.4, 300), tone(1.4, 1500)])
    both = np.concatenate([pictures(1.4, 50, 0), pictures(1.4, 51, 100)])
    write_video(folder / "long.avi", both, fps=FPS, waveform=long, sample_rate_hz=RATE_HZ)
    rows += [("long.avi", start, end, None, "unlabelled", "long") for start, end in WINDOWS]
    table = pd.DataFrame(rows, columns=["path", "start", "end", "label", "split", "group"])
    return table.assign(clip_id=[f"c{number:02}" for number in range(len(table))])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over extracted clips, runs/set/all and, of views and windows, runs/set/views."""
    folder = tmp_path_factory.mktemp("work")
    manifest = Manifest("set", "set", folder / "clips", write_clips(folder / "clips"))
    cache = folder / "cache"
    save_manifest(cache, manifest)
    every = [
        *resolve(["lite:frames", "lite:mfcc", "lite:chromagram"], sampling="uniform:2"),
        *resolve(VIEWS, sampling="uniform:2"),
    ]
    specs: list[FeatureSpec] = list({spec.key: spec for spec in every}.values())
    extract(manifest.clips(), specs, cache, "set", device="cpu", workers=1, progress=False)
    for name, inputs, heads in (
        ("all", {"video": ["lite:frames"], "audio": ["lite:mfcc", "lite:chromagram"]}, ["audio", "video", "mlp"]),
        ("views", {"video": VIEWS[:2], "audio": VIEWS[2:]}, ["mlp"]),
    ):
        data = load_data(manifest, cache, inputs)
        training = TrainingOverrides(epochs=3, hidden="16")
        described = describe_run(manifest, "avfuse fuse", cache)
        run_experiment(data, folder / "runs" / "set" / name, heads, 2, training, described, progress=False)
    return folder


@pytest.fixture(scope="module")
def run(workplace: Path) -> Path:
    return workplace / "runs" / "set" / "all"


def call(*arguments: object) -> Result:
    return commands.call("predict", *arguments, *ONE_CPU)


def refused(*arguments: object) -> str:
    return commands.refused("predict", *arguments, *ONE_CPU)


def clips_of(workplace: Path, split: str) -> list[Clip]:
    manifest = load_manifest(workplace / "cache", "set")
    return [clip for clip, its in zip(manifest.clips(), manifest.table["split"], strict=True) if its == split]


def check_same(found: Prediction, folder: Path, row: str, split: str) -> None:
    expected = load_predictions(folder, row, split)
    (target,) = found.targets
    assert found.row == row
    assert found.seeds == expected.seeds
    values = np.array([clip.probabilities["label"] for clip in found.clips])
    np.testing.assert_allclose(values, probabilities(target, expected.scores[0]), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def predicted(workplace: Path, run: Path) -> Prediction:
    """Of the test clips."""
    return predict([clip.path for clip in clips_of(workplace, "test")], run, "mlp", device="cpu", workers=1)


def test_test_clips_get_the_probabilities_of_the_evaluation(predicted: Prediction, run: Path) -> None:
    check_same(predicted, run, "mlp", "test")
    assert predicted.validation_score is None
    assert predicted.seconds_per_clip > 0


def test_cached_views_are_averaged_as_in_the_evaluation(workplace: Path) -> None:
    views = workplace / "runs" / "set" / "views"
    paths = [clip.path for clip in clips_of(workplace, "test")]
    check_same(predict(paths, views, device="cpu", workers=1), views, "mlp", "test")


def test_what_could_be_used_is_said_of_every_clip(predicted: Prediction) -> None:
    by_name = {clip.path.name: clip for clip in predicted.clips}
    assert by_name["low4.avi"].notes == ("no audio stream: predicted from the picture alone",)
    assert by_name["low4.avi"].used == ("video",)
    assert by_name["low5.avi"].notes == ("the sound is silent",)
    assert by_name["high4.avi"].notes == ()
    assert by_name["high4.avi"].used == ("video", "audio")


def test_top_classes_come_in_order_of_probability(predicted: Prediction) -> None:
    (target,) = predicted.targets
    for clip in predicted.clips:
        names, values = zip(*clip.top(target), strict=True)
        assert set(names) == set(CLASSES)
        assert sum(values) == pytest.approx(1)
        assert values[0] >= values[1]
        assert len(clip.top(target, 1)) == 1


@pytest.fixture(scope="module")
def windows(workplace: Path, run: Path) -> Prediction:
    """Of the long file."""
    long = workplace / "clips" / "long.avi"
    return predict([long], run, "mlp", window=WINDOW, hop=HOP, device="cpu", workers=1)


def test_windows_are_clips_of_the_file(windows: Prediction, run: Path) -> None:
    np.testing.assert_allclose([(clip.start, clip.end) for clip in windows.clips], WINDOWS)
    assert f"{len(WINDOWS)} of {len(WINDOWS)} windows predicted" in print_summary(windows)
    check_same(windows, run, "mlp", "unlabelled")


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
    assert "s a clip" in said.stderr


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


def test_the_best_row_by_validation_is_taken_and_said(workplace: Path, run: Path) -> None:
    clip = workplace / "clips" / "high4.avi"
    said = call(clip, "--run", run).stderr
    results = pd.read_csv(run / "results.csv").groupby("head", sort=False)["validation_top1"].mean()
    best = results.max()
    row = next(row for row in ("audio", "video", "mlp") if results[row] == best)
    assert f"{run}:{row}, of 3 rows the best on validation ({100 * best:.1f} % top-1), 2 seeds" in said


def test_a_tables_row_is_its_tuned_heads(predicted: Prediction, run: Path, tmp_path: Path) -> None:
    rows = {"both": {"folder": str(run), "tuned": "mlp", "seeds": 2}}
    (tmp_path / "table.json").write_text(json.dumps({"rows": rows}))
    one = predicted.clips[-1]
    (found,) = predict([one.path], f"{tmp_path}:both", device="cpu", workers=1).clips
    np.testing.assert_allclose(found.probabilities["label"], one.probabilities["label"], rtol=0, atol=1e-6)
    assert "has no trained row 'other'" in refused(one.path, "--run", tmp_path, "--head", "other")


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Callable[[Callable[[FeatureSpec], FeatureSpec]], Path]:
    """A copy of the run whose frames' feature is another one."""

    def change(alter: Callable[[FeatureSpec], FeatureSpec]) -> Path:
        folder = Path(shutil.copytree(run, tmp_path / "changed"))
        described = json.loads((folder / "run.json").read_text())
        old = described["features"]["video"][0]
        new = alter(FeatureSpec.model_validate({name: value for name, value in old.items() if name != "key"}))
        described["features"]["video"] = [{**new.model_dump(mode="json"), "key": new.key}]
        (folder / "run.json").write_text(json.dumps(described))
        return folder

    return change


def test_features_that_would_be_others_are_refused(
    changed: Callable[[Callable[[FeatureSpec], FeatureSpec]], Path],
) -> None:
    def other_weights(spec: FeatureSpec) -> FeatureSpec:
        assert spec.model is not None
        return spec.model_copy(update={"model": spec.model.model_copy(update={"checkpoint": "00" * 32})})

    assert "--weights lite=FILE" in refused("x.avi", "--run", changed(other_weights), "--head", "video")


def test_heads_over_features_from_elsewhere_cannot_predict(tmp_path: Path) -> None:
    data = load_data(kitchen(tmp_path, clips=80), tmp_path, INPUTS)
    described = {"dataset": "kitchen", "collection": "kitchen"}
    training = TrainingOverrides(epochs=1, hidden="16")
    run_experiment(data, tmp_path / "run", ["mlp"], 1, training, described, progress=False)
    assert "was computed elsewhere" in refused("a.mp4", "--run", tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--head", "svc"], "holds no row 'svc'"),
        (["--hop", "1"], "name their length too"),
        (["--window", "0"], "window of 0 seconds"),
        (["--window", "1", "--hop", "-1"], "hop of -1 seconds"),
        (["--window", "long"], "--window long: not a number of seconds"),
        (["-o", "x.png"], "a picture shows windows over time"),
        (["--json", "-o", "x.csv"], "name a .json file, or leave --json out"),
        (["--weights", ","], "weights ','"),
        (["--window", "0.1", "--hop", "0.000001"], "take a longer hop"),
    ],
)
def test_mistakes_are_one_line(workplace: Path, run: Path, given: list[str], said: str) -> None:
    assert said in refused(workplace / "clips" / "long.avi", "--run", run, *given)


def test_what_is_no_run_is_named(workplace: Path) -> None:
    assert f"{workplace / 'clips'} is no run" in refused("a.mp4", "--run", workplace / "clips")
