"""Extraction ends, whatever lies in the folder, and what it kept is right."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avfuse import features
from avfuse.features.backbones import get_backbone
from avfuse.features.backbones.loading import load
from avfuse.features.backbones.weights import find_weights
from avfuse.features.cache import FeatureStore
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.inputs import prepare as preparing
from avfuse.features.inputs.prepare import prepare
from avfuse.features.inputs.resize import resize_and_crop as real_fit
from avfuse.features.media import write_video
from avfuse.stages.device import choose_device, choose_devices, device_memory_bytes
from avfuse.stages.extract import plan as planning
from avfuse.stages.extract import worker
from avfuse.stages.extract.encode import OutputLayout
from avfuse.stages.extract.pool import DecodePool, Limits
from avfuse.stages.extract.run import ExtractSummary, extract

SPECS = resolve(["lite:frames", "lite:mfcc"], sampling="uniform:3")
USABLE = {"good", "other", "no_sound", "silent"}


def clips_of(folder: Path) -> list[Clip]:
    return [Clip(path.stem, path) for path in sorted(folder.glob("*.avi"))]


def run(clips: list[Clip], cache: Path, **options: object) -> ExtractSummary:
    return extract(clips, SPECS, cache, "set", device="cpu", progress=False, **options)  # type: ignore[arg-type]


def row_bytes(cache: Path) -> dict[tuple[str, str], bytes]:
    table = {}
    for spec in SPECS:
        loaded = features.load("set", spec.name, cache)
        table |= {(spec.name, clip): row.tobytes() for clip, row in zip(loaded.clip_ids, loaded.data, strict=True)}
    return table


@pytest.fixture(scope="module")
def done(media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExtractSummary]:
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(clips_of(media), cache, workers=1)


def test_every_clip_is_accounted_for_in_every_feature(media: Path, done: tuple[Path, ExtractSummary]) -> None:
    cache, summary = done
    for feature in summary.features:
        counts = {"clip_id": 0, "failed": 0, "no_audio": 0}
        for shard in FeatureStore(cache, "set", feature.spec).shards():
            for name in counts:
                counts[name] += len(getattr(shard, name))
        assert sum(counts.values()) == len(clips_of(media))
        assert counts["no_audio"] == (1 if feature.spec.needs_audio else 0)
        assert counts["failed"] == 3


def test_problems_name_the_file_and_the_reason(done: tuple[Path, ExtractSummary]) -> None:
    _, summary = done
    assert set(summary.problems) == {"cut_short", "text", "empty"}
    assert "cut short" in summary.problems["cut_short"][0]
    assert "empty" in summary.problems["empty"][0]
    assert summary.no_audio == ["no_sound"]


def test_features_are_the_backbone_on_the_prepared_pixels(media: Path, done: tuple[Path, ExtractSummary]) -> None:
    cache, _ = done
    encode = load(get_backbone("lite"), find_weights(get_backbone("lite").checkpoint), "cpu")
    for spec in SPECS:
        table = features.load("set", spec.name, cache)
        pixels = prepare(media / "other.avi", None, None, [spec.input]).outcomes[0]
        assert isinstance(pixels, np.ndarray)
        assert spec.preprocess is not None
        encoded = encode(torch.tensor(pixels.reshape(-1, 224, 224, 3)), spec.preprocess)
        expected = encoded.pooled.numpy().reshape(spec.shape)
        stored = table.data[table.clip_ids.index("other")]
        np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-3)  # float16 on disk


def test_a_third_run_does_nothing(media: Path, tmp_path: Path, done: tuple[Path, ExtractSummary]) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(done[0], cache)
    again = run(clips_of(media), cache, workers=1)
    assert (again.new, again.retried) == (3, 3)  # what failed is tried once more
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.h5")}
    assert run(clips_of(media), cache).new == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.h5")} == before


def test_workers_and_chunks_change_no_byte(
    media: Path, tmp_path: Path, done: tuple[Path, ExtractSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CHUNK_CLIPS", 2)
    run(clips_of(media), tmp_path, workers=3)
    assert row_bytes(tmp_path) == row_bytes(done[0])


def test_an_interrupted_run_goes_on_where_it_stopped(
    media: Path, tmp_path: Path, done: tuple[Path, ExtractSummary]
) -> None:
    clips = clips_of(media)
    run(clips[:4], tmp_path, workers=1)
    (tmp_path / "set" / SPECS[1].folder).rename(tmp_path / "lost")  # killed before the second feature was committed
    summary = run(clips, tmp_path, workers=1)
    assert summary.new == len(clips)
    assert row_bytes(tmp_path) == row_bytes(done[0])
    assert FeatureStore(tmp_path, "set", SPECS[0]).lookup(clips).extra == 0


def test_failures_are_tried_again_once_and_then_only_when_asked(
    media: Path, tmp_path: Path, done: tuple[Path, ExtractSummary]
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(done[0], cache)
    clips = [clip for clip in clips_of(media) if clip.clip_id == "text"]
    processed = [run(clips, cache, workers=1, retry_failed=retry).new for retry in (False, False, True, False)]
    assert processed == [1, 0, 1, 0]
    assert FeatureStore(cache, "set", SPECS[0]).lookup(clips).attempts.tolist() == [3]


TROUBLE = """
import ctypes, os, signal
import numpy as np
from avfuse.stages.extract import worker
from avfuse.stages.extract.worker import prepare_clip as real_prepare_clip

real_prepare = worker.prepare

def prepare_clip(slot, clip, inputs):
    trouble = clip.clip_id.split("_")[0]
    if trouble == "hangs":
        ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter lock: no Python code runs meanwhile
    if trouble == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    worker.prepare = eat if trouble == "eats" else real_prepare
    return real_prepare_clip(slot, clip, inputs)

def eat(*_):
    eaten = []
    while True:
        eaten.append(np.ones(2**24))
"""


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In decode workers, a clip does what its name says."""
    (tmp_path / "avfuse_trouble.py").write_text(TROUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "prepare_clip", importlib.import_module("avfuse_trouble").prepare_clip)


@pytest.mark.usefixtures("trouble")
@pytest.mark.parametrize(
    ("troubles", "limits"),
    [
        (
            {
                "crashes": "the decode process died (exit code -11)",
                "eats": "took more memory than a clip may (--clip-memory)",
                "eats_again": "took more memory than a clip may (--clip-memory)",
            },
            Limits(memory_bytes=2**29),
        ),
        pytest.param({"hangs": "took longer than 30 s"}, Limits(seconds=30), marks=pytest.mark.slow),
    ],
)
def test_a_crash_a_glutton_and_a_hang_cost_only_their_clips(
    media: Path, tmp_path: Path, done: tuple[Path, ExtractSummary], troubles: dict[str, str], limits: Limits
) -> None:
    names = ["good", *troubles, "other", "no_sound", "silent"]
    known = {path.stem: path for path in media.glob("*.avi")}
    clips = [Clip(name, known.get(name, known["good"])) for name in names]
    summary = run(clips, tmp_path / "cache", workers=2, limits=limits)
    assert summary.problems == {name: [f"worker: {why}"] for name, why in troubles.items()}
    assert row_bytes(tmp_path / "cache") == row_bytes(done[0])


def test_a_picture_far_too_large_costs_only_its_clip(media: Path, tmp_path: Path) -> None:
    frames = [np.full((5000, 6000, 3), 90, np.uint8)] * 3
    write_video(tmp_path / "bomb.avi", frames, fps=25, video_codec="mjpeg", pixel_format="yuvj420p")
    inputs = [SPECS[0].input]
    jobs = [(Clip(path.stem, path), inputs) for path in (tmp_path / "bomb.avi", media / "good.avi")]
    with DecodePool(1, inputs, limits=Limits(memory_bytes=160 * 2**20)) as pool:
        bomb, good = pool.prepare(jobs)
    assert "memory" in str(bomb.outcomes[inputs[0]])
    assert isinstance(good.outcomes[inputs[0]], np.ndarray)


def test_what_is_odd_about_a_clip_is_said(tmp_path: Path) -> None:
    write_video(tmp_path / "short.avi", np.full((2, 48, 64, 3), 90, np.uint8), fps=25)
    summary = run([Clip("short", tmp_path / "short.avi")], tmp_path / "cache", workers=1)
    assert summary.notes == {"short": ("uniform:3 needs 3 frames, the clip has 2 frames: they repeat",)}


def test_a_frame_wanted_at_one_size_by_several_features_is_resized_once(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(preparing, "resize_and_crop", lambda frame, size: calls.append(1) or real_fit(frame, size))
    inputs = [resolve(["lite:frames"], sampling=scheme)[0].input for scheme in ("uniform:3", "uniform:9", "uniform:3")]
    few, many, again = prepare(media / "good.avi", None, None, inputs).outcomes
    assert len(calls) == 9  # the three are among the nine
    np.testing.assert_array_equal(few, again)
    np.testing.assert_array_equal(few, many[1::3])


def test_decode_workers_import_no_torch() -> None:
    code = "import sys, avfuse.stages.extract.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="cuda:99"):
        choose_device("cuda:99")


def test_on_a_gpu_no_more_is_kept_than_the_machine_can_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    main = device_memory_bytes("cpu")
    for total, expected in ((main * 4, main), (main // 4, main // 4)):
        properties = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, properties=properties: properties)
        assert device_memory_bytes("cuda:0") == expected


@pytest.mark.slow
def test_several_devices_share_the_clips_and_change_no_byte(
    media: Path, done: tuple[Path, ExtractSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CHUNK_CLIPS", 2)
    summary = extract(clips_of(media), SPECS, tmp_path, "set", device="cpu,cpu", workers=2, progress=False)
    assert row_bytes(tmp_path) == row_bytes(done[0])
    assert set(summary.problems) == set(done[1].problems)
    assert summary.notes == done[1].notes


def test_devices_are_listed_with_commas() -> None:
    assert choose_devices("cpu, cpu") == ["cpu", "cpu"]
    with pytest.raises(UsageError, match="cuda:99"):
        choose_devices("cpu,cuda:99")


def test_what_a_run_will_write_is_said_before_it_begins(media: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    clips = [clip for clip in clips_of(media) if clip.clip_id in ("good", "other")]
    run(clips, tmp_path, workers=1, log=lines.append)
    need = 2 * (3 * 1280 + 1280) * 2
    assert len(lines) == 1
    assert f"{need / 1024:.3g} KiB for 2 clips" in lines[0]
    assert "free)" in lines[0]
    run(clips, tmp_path, workers=1, log=lines.append)
    assert len(lines) == 1


def test_the_old_name_of_log_works_with_a_warning(media: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    clips = [clip for clip in clips_of(media) if clip.clip_id == "text"]
    with pytest.warns(FutureWarning, match=r"extract\(log=...\) now"):
        run(clips, tmp_path, workers=1, tell=lines.append)
    assert lines[0].startswith("to write: up to")


def test_numbers_that_cannot_be_stored_are_a_failure_not_infinities(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OutputLayout.select
    monkeypatch.setattr(OutputLayout, "select", lambda layout, encoded: 1e6 * real(layout, encoded))
    clips = [clip for clip in clips_of(media) if clip.clip_id == "good"]
    summary = run(clips, tmp_path, workers=1)
    assert summary.problems == {"good": ["encode: the network gives numbers that float16 cannot hold"]}
