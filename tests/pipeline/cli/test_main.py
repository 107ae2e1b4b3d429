"""The command line: the whole path on a small data set, and one line for every mistake."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from command_line import AVFUSE, avfuse, avfuse_alone
from pages import read_page
from PIL import Image

from avfuse.features.audio_images import list_audio_images
from avfuse.manifests.demo import render_demo


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of four classes, one of them cut short and one without sound, extracted and fused."""
    folder = tmp_path_factory.mktemp("work")
    classes = ["BouncingCube", "SwingingBall", "DrumSteady", "FluteRising"]
    clips = render_demo(folder / "clips", groups=5, clips_per_group=1, classes=classes, n_jobs=1, progress=False)
    rows = [{"path": clip.path, "label": clip.label, "scene": clip.group, "split": clip.split} for clip in clips]
    pd.DataFrame(rows).to_csv(folder / "clips" / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def extracted(workplace: Path) -> subprocess.CompletedProcess[str]:
    return avfuse(
        "extract", "--dataset", "folder", "--root", "clips", "--group-column", "scene",
        "--features", "lite:frames,lite:chromagram,lite:mfcc", "--frames", "uniform:4", "--workers", 1, cwd=workplace,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fused(workplace: Path, extracted: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert extracted.returncode == 0, extracted.stderr
    return avfuse(
        "fuse", "--dataset", "clips", "--audio", "lite:mfcc,lite:chromagram", "--seeds", 2, "--epochs", 2, cwd=workplace
    )


def test_extract_says_what_it_did(extracted: subprocess.CompletedProcess[str]) -> None:
    assert extracted.returncode == 0, extracted.stderr
    assert "clips: 20 clips" in extracted.stdout
    assert "lite:chromagram" in extracted.stdout
    assert "without an audio stream" in extracted.stdout


def test_extract_again_has_nothing_to_do(workplace: Path, extracted: subprocess.CompletedProcess[str]) -> None:
    again = avfuse("extract", "--dataset", "clips", "--features", "lite:mfcc", cwd=workplace)
    assert "nothing to extract" in again.stdout


@pytest.mark.parametrize("command", [avfuse, pytest.param(avfuse_alone, marks=pytest.mark.slow)])
def test_extract_fails_where_no_clip_can_be_used(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for name in ("a.mp4", "b.mp4"):
        file = tmp_path / "broken" / "jumping" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not a video")
    asked = ("extract", "--dataset", "folder", "--root", "broken", "--features", "lite:mfcc", "--workers", 1)
    ended = command(*asked, cwd=tmp_path)
    assert ended.returncode == 1
    assert "could not be used (2)" in ended.stdout
    assert ended.stderr.splitlines()[-1] == "avfuse: none of these clips could be used"


def test_fuse_prints_a_table_and_writes_everything(workplace: Path, fused: subprocess.CompletedProcess[str]) -> None:
    assert fused.returncode == 0, fused.stderr
    folder = workplace / "runs" / "clips" / "all"
    for head in ("audio", "video", "average", "mlp", "crossattn", "bottleneck"):
        assert f"\n{head} " in fused.stdout
    assert len(pd.read_csv(folder / "results.csv")) == 12
    for name in ("accuracy.png", "learning-curves.png", "confusion-matrix.png"):
        assert Image.open(folder / name).size[0] > 400


def test_the_page_is_self_contained_and_shows_clips(workplace: Path, fused: subprocess.CompletedProcess[str]) -> None:
    assert fused.returncode == 0, fused.stderr
    file = workplace / "runs" / "clips" / "all" / "report.html"
    page = read_page(file)
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not any("@import" in style for style in page.styles)
    media = page.islands["explorer"]["media"].values()
    assert media
    shown = [each for each in media if each["images"]]
    assert shown
    assert all(list(each["images"]) == list(list_audio_images()) for each in shown)
    addresses = [address for each in media for address in (*each["images"].values(), *dict(each["frames"]))]
    assert all(address.startswith("data:image/webp;base64,") for address in addresses)
    assert all(each["sound"].startswith("data:audio/mpeg;base64,") for each in shown)
    assert file.stat().st_size < 10e6


def test_report_writes_the_page_again(workplace: Path, fused: subprocess.CompletedProcess[str]) -> None:
    made = avfuse("report", "runs/clips/all", "-o", "again.html", cwd=workplace)
    assert made.returncode == 0, made.stderr
    assert (workplace / "again.html").read_text() == (workplace / "runs/clips/all/report.html").read_text()


MISTAKES = {
    "unknown command": (["extrakt"], "extrakt"),
    "unknown data set": (["extract", "--dataset", "ucf102"], "ucf102"),
    "missing root": (["extract", "--dataset", "folder"], "ROOT"),
    "root is no folder": (["extract", "--dataset", "folder", "--root", "nowhere"], "nowhere"),
    "unknown feature": (["extract", "--dataset", "clips", "--features", "resnet9000"], "resnet9000"),
    "unknown representation": (["extract", "--dataset", "clips", "--features", "lite:spectrum"], "lite:spectrum"),
    "no feature": (["fuse", "--dataset", "clips", "--audio", ","], "AUDIO="),
    "a picture for a head": (["fuse", "--dataset", "clips", "--audio", "image:mfcc"], "lite:chromagram"),
    "unknown view": (["extract", "--dataset", "clips", "--features", "lite:mfcc:up"], "lite:mfcc:up"),
    "odd size": (["extract", "--dataset", "clips", "--features", "image:mfcc", "--size", "big"], "360x360"),
    "unknown sampling": (["extract", "--dataset", "clips", "--frames", "every:2"], "every:2"),
    "unknown device": (["extract", "--dataset", "clips", "--device", "tpu", "--frames", "uniform:2"], "tpu"),
    "unknown fusion": (["fuse", "--dataset", "clips", "--fusion", "gated"], "gated"),
    "features not extracted": (["fuse", "--dataset", "clips", "--audio", "lite:waveplot"], "make extract"),
    "a name that leaves its folder": (["fuse", "--dataset", "clips", "--audio", "lite:mfcc", "--name", "../x"], "../x"),
    "data set not listed": (["fuse", "--dataset", "nothing"], "nothing"),
    "cache is a file": (["extract", "--dataset", "clips", "--cache", "clips/labels.csv"], "clips/labels.csv"),
    "runs is a file": (
        ["fuse", "--dataset", "clips", "--audio", "lite:mfcc", "--runs", "clips/labels.csv"],
        "labels.csv",
    ),
    "unwritable output": (
        ["render", "clips/DrumSteady/v_DrumSteady_g02_c01.avi", "-o", "/proc/pictures"],
        "/proc/pictures",
    ),
    "unwritable cache": (["manifest", "folder", "--root", "clips", "--cache", "/proc/cache"], "/proc/cache"),
    "clip without sound": (["render", "clips/BouncingCube/v_BouncingCube_g01_c01.avi", "-o", "out"], "no audio stream"),
    "clip not there": (["render", "nowhere.avi", "-o", "out"], "not found"),
    "no run there": (["report", "clips"], "holds no run"),
    "bad number": (["fuse", "--dataset", "clips", "--seeds", "none"], "none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_the_way_out(
    workplace: Path, extracted: subprocess.CompletedProcess[str], mistake: str
) -> None:
    arguments, named = MISTAKES[mistake]
    answer = avfuse(*arguments, cwd=workplace)
    lines = answer.stderr.strip().splitlines()
    assert answer.returncode == 2, answer.stderr
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("avfuse: ")
    assert named in lines[0]


def test_help_teaches(tmp_path: Path) -> None:
    for command in ([], ["extract"], ["fuse"], ["manifest"], ["decode"], ["render"], ["report"]):
        shown = avfuse(*command, "--help", cwd=tmp_path)
        assert shown.returncode == 0
        assert "avfuse" in shown.stdout
        assert "Example" in shown.stdout or "tour" in shown.stdout


@pytest.mark.parametrize("group", [(), ("runs",)])
def test_a_group_without_a_command_lists_its_commands(tmp_path: Path, group: tuple[str, ...]) -> None:
    result = avfuse(*group, cwd=tmp_path)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Usage: ")
    assert any(line.startswith("  export " if group else "  extract ") for line in lines)
    assert "Traceback" not in result.stderr


def test_weights_that_are_not_for_every_use_say_so(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timesformer-base-finetuned-k400.bin").write_bytes(b"not really")
    monkeypatch.setenv("AVFUSE_WEIGHTS", str(tmp_path))
    command = ["extract", "--dataset", "folder", "--root", "clips", "--features", "timesformer", "--limit", "1"]
    done = avfuse(*command, cwd=workplace)
    assert "CC-BY-NC-4.0, not for commercial use" in done.stderr
    assert "holds no weights" in done.stderr
    assert done.returncode == 2


@pytest.mark.slow
def test_weights_that_are_neither_here_nor_to_be_had_are_named_in_a_line(workplace: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVFUSE_WEIGHTS": str(tmp_path)}
    environment |= {"https_proxy": "http://127.0.0.1:9", "HF_ENDPOINT": "http://127.0.0.1:9"}
    for name, file in (("resnet18", "resnet18-f37072fd.pth"), ("ast", "ast-finetuned-audioset-10-10-0.4593")):
        command = [*AVFUSE, "extract", "--dataset", "folder", "--root", "clips", "--features", name, "--limit", "1"]
        done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False, env=environment)
        last = done.stderr.strip().splitlines()[-1]
        assert "cannot fetch" in last
        assert file in last
        assert str(tmp_path) in last
        assert "Traceback" not in done.stderr
        assert done.returncode == 2


@pytest.mark.slow
def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    """As installed, the command's own folder comes first on its path, and the current one is not on it at all."""
    soundfile = pytest.importorskip("soundfile")
    command = tmp_path / "bin" / "avfuse.start.py"
    command.parent.mkdir()
    command.write_text("from avfuse.pipeline.cli import main\nif __name__ == '__main__':\n    main()\n")
    clips = tmp_path / "downloaded"
    for label in ("hum", "hiss"):
        (clips / label).mkdir(parents=True)
        soundfile.write(clips / label / f"{label}.wav", np.random.default_rng(0).uniform(-1, 1, 20_000), 16_000)
    for library in ("av", "numpy", "socket", "stages"):
        (clips / f"{library}.py").write_text(
            f"open('EXECUTED', 'a').write('{library} ')\nraise ImportError('{library}')\n"
        )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(ROOT)
    extract = ["extract", "--dataset", "folder", "--root", ".", "--features", "image:chromagram", "--cache", "../cache"]
    done = subprocess.run(
        [sys.executable, command, *extract, "--workers", "1"],
        cwd=clips, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (clips / "EXECUTED").exists()


@pytest.mark.parametrize(("set_by_user", "seconds"), [({}, "30.0"), ({"TQDM_MININTERVAL": "2"}, "2.0")])
def test_progress_bars_write_few_lines_to_a_log(tmp_path: Path, set_by_user: dict[str, str], seconds: str) -> None:
    """A progress bar reads the environment when tqdm is imported."""
    code = (
        "import os, sys; from avfuse.pipeline.cli import main; sys.argv = ['avfuse', '--version']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "from tqdm import tqdm; print(float(tqdm(range(1), file=open(os.devnull, 'w')).mininterval))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TQDM_")} | set_by_user
    environment["PYTHONPATH"] = str(ROOT)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.stdout.splitlines()[-1] == seconds, ended.stderr


@pytest.mark.slow
def test_a_log_gets_no_line_before_the_interval_is_over(
    workplace: Path, extracted: subprocess.CompletedProcess[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_MININTERVAL", "3600")
    monkeypatch.delenv("TQDM_MAXINTERVAL", raising=False)
    command = ["--dataset", "clips", "--audio", "lite:mfcc", "--fusion", "audio,video,mlp", "--seeds", 1, "--epochs", 2]
    done = avfuse_alone("fuse", *command, "--name", "logged", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stderr
