"""Device processes and concurrent runs: whoever dies and whoever else is at work, every clip is there once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

from avfuse import features
from avfuse.features.cache import ChunkResult, FeatureStore, fingerprint
from avfuse.features.cache.claims import Claims, claim_id
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.media import write_video
from avfuse.features.spec import FeatureSpec
from avfuse.stages.extract import plan as planning
from avfuse.stages.extract import run as running
from avfuse.stages.extract.extractor import ExtractionJob
from avfuse.stages.extract.plan import (
    ClipJob,
    chunk_size,
    clip_range,
    plan_extraction,
    remaining_jobs,
    split_into_chunks,
)
from avfuse.stages.extract.retry import MAX_CONSECUTIVE_FAILURES, ChunkAttempt, CrashBisector
from avfuse.stages.extract.run import ExtractSummary, extract

(FRAMES,) = resolve(["lite:frames"], sampling="uniform:2")
(PICTURE,) = resolve(["image:mfcc"])

PROGRAM = """
import sys
from pathlib import Path
from avfuse.features.backbones import WeightsChoice
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.stages.extract import plan
from avfuse.stages.extract.run import extract

if __name__ == "__main__":
    media, cache, feature, device, chunk = sys.argv[1:]
    plan.CHUNK_CLIPS = int(chunk)
    random = WeightsChoice.parse("random")
    clips = [Clip(path.stem, path) for path in sorted(Path(media).glob("*.avi"))]
    specs = resolve([feature], "uniform:2" if "frames" in feature else None, weights=random)
    options = dict(device=device, workers=2, weights=random, progress=False, log=print)
    summary = extract(clips, specs, Path(cache), "set", **options)
    print("NEW", summary.new, "ELSEWHERE", summary.elsewhere, "EXTRA", summary.features[0].extra)
    for clip, reasons in summary.problems.items():
        print("PROBLEM", clip, *reasons)
"""


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    program = folder / "program.py"
    if not program.exists():  # another process may be reading it
        program.write_text(PROGRAM)
    own = ROOT / "tests" / "helpers" / "fragile_backbone.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVFUSE_BACKBONES": str(own), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(program), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def make_media(folder: Path, count: int, white: int | None = None) -> list[Clip]:
    """Clips of one grey each, by which a feature tells its clip; the `white`-th is white."""
    folder.mkdir(exist_ok=True)
    clips = []
    for number in range(count):
        path = folder / f"clip{number:02d}.avi"
        time = np.arange(22050) / 22050
        sound = (0.4 * np.sin(2 * np.pi * (200 + 100 * number) * time)).astype(np.float32)
        level = 255 if number == white else 20 + 15 * number
        frames = np.full((6, 48, 64, 3), level, np.uint8)
        write_video(path, frames, fps=25, waveform=sound, sample_rate_hz=22050)
        clips.append(Clip(path.stem, path))
    return clips


@pytest.mark.slow
def test_a_clip_that_kills_its_device_costs_that_clip(tmp_path: Path) -> None:
    make_media(tmp_path / "media", 6, white=3)
    process = start(tmp_path, str(tmp_path / "media"), str(tmp_path / "cache"), "fragile:frames", "cpu,cpu", "3")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    problems = [line for line in output.splitlines() if line.startswith("PROBLEM")]
    assert problems == ["PROBLEM clip03 worker: the process of cpu was killed (SIGKILL)"]
    table = features.load("set", "fragile:frames", tmp_path / "cache")
    assert table.clip_ids == ["clip00", "clip01", "clip02", "clip04", "clip05"]
    np.testing.assert_allclose(table.data[:, 0, 0], [20, 35, 50, 80, 95], atol=6)


@pytest.fixture(scope="module")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return make_media(tmp_path_factory.mktemp("sounding"), 12)


def run(clips: list[Clip], cache: Path, *specs: FeatureSpec, **options: object) -> ExtractSummary:
    return extract(clips, specs or [PICTURE], cache, "set", device="cpu", workers=1, progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_runs_side_by_side_share_the_clips(sounding: list[Clip], tmp_path: Path) -> None:
    arguments = (str(sounding[0].path.parent), str(tmp_path / "cache"), "image:mfcc", "cpu", "1")
    runs = [start(tmp_path, *arguments) for _ in range(3)]
    processed = 0
    for process in runs:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        processed += int(output.splitlines()[-1].split()[1])
    assert processed == len(sounding)
    result = FeatureStore(tmp_path / "cache", "set", PICTURE).lookup(sounding)
    assert (result.outcome == 1).all()
    assert result.extra == 0
    run(sounding, tmp_path / "alone")
    shared, alone = (features.load("set", "image:mfcc", tmp_path / name) for name in ("cache", "alone"))
    assert shared.clip_ids == alone.clip_ids
    np.testing.assert_array_equal(shared.data, alone.data)


def test_clips_that_another_run_claims_are_waited_for_and_processed_when_it_ends_without(
    sounding: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "POLL_SECONDS", 0.01)
    claims = Claims(tmp_path, "set")
    _, claim = claims.acquire([claim_id(PICTURE.key, clip) for clip in sounding[:2]])
    assert claim is not None
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            assert {path.clip_id for path in sounding[2:]} <= set(features.load("set", "image:mfcc", tmp_path).clip_ids)
            claim.release()

    summary = run(sounding, tmp_path, log=log)
    assert "2 of these clips: waiting for it" in lines[-1]
    assert summary.new == len(sounding)


def test_what_another_run_commits_meanwhile_is_not_done_again(
    sounding: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sounding[:4], tmp_path / "other")
    (other,) = FeatureStore(tmp_path / "other", "set", PICTURE).paths()
    real = running.plan_extraction

    def plan_and_be_overtaken(*arguments: object) -> planning.ExtractionPlan:
        plan = real(*arguments)  # type: ignore[arg-type]
        folder = FeatureStore(tmp_path / "cache", "set", PICTURE).folder
        folder.mkdir(parents=True)
        (folder / other.name).write_bytes(other.read_bytes())
        return plan

    monkeypatch.setattr(running, "plan_extraction", plan_and_be_overtaken)
    summary = run(sounding, tmp_path / "cache")
    assert (summary.new, summary.elsewhere) == (len(sounding) - 4, 4)
    assert summary.features[0].done == len(sounding)
    assert summary.features[0].extra == 0


@pytest.mark.slow
def test_long_chunks_are_committed_in_parts(
    sounding: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avfuse.stages.extract import chunk

    monkeypatch.setattr(chunk, "COMMIT_SECONDS", 0.0)
    run(sounding, tmp_path / "parts", FRAMES)
    monkeypatch.undo()
    run(sounding, tmp_path / "whole", FRAMES)
    parts, whole = (FeatureStore(tmp_path / name, "set", FRAMES) for name in ("parts", "whole"))
    assert (len(parts.paths()), len(whole.paths())) == (len(sounding), 1)
    np.testing.assert_array_equal(parts.load(sounding).data, whole.load(sounding).data)


def test_no_claim_and_no_temporary_file_is_left(sounding: list[Clip], tmp_path: Path) -> None:
    run(sounding[:3], tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".h5", ".json")}
    assert left <= {"board.lock"}


def jobs(clips: list[Clip], attempts: int = 0) -> tuple[ClipJob, ...]:
    return tuple(ClipJob(clip, (0,), (attempts,)) for clip in clips)


@pytest.fixture
def extraction(tmp_path: Path) -> ExtractionJob:
    return ExtractionJob((PICTURE,), tmp_path, "set", (frozenset(),))


def deaths_until_over(extraction: ExtractionJob, chunk: tuple[ClipJob, ...], guilty: set[str]) -> Iterator[str]:
    """Simulate a process that dies over every chunk with a guilty clip. Yields the clips that fail."""
    bisector = CrashBisector(extraction)
    queue = [ChunkAttempt(chunk)]
    for _ in range(1000):
        if not queue:
            return
        attempt = queue.pop(0)
        if not guilty & {job.clip.clip_id for job in attempt.chunk}:
            bisector.finished()
            continue
        attempts, failure = bisector.next_attempts(attempt, "it died")
        queue += attempts
        if failure is not None:
            yield failure.clips[0].clip_id
    raise AssertionError("it never ends")


def test_only_the_guilty_clips_fail(extraction: ExtractionJob, sounding: list[Clip]) -> None:
    guilty = {"clip02", "clip07"}
    assert set(deaths_until_over(extraction, jobs(sounding), guilty)) == guilty
    result = extraction.stores()[0].lookup(sounding)
    assert {clip.clip_id for clip, outcome in zip(sounding, result.outcome, strict=True) if outcome == 3} == guilty
    assert result.failure(2).message == "it died"


def test_a_device_that_dies_over_every_clip_ends_the_run(extraction: ExtractionJob, sounding: list[Clip]) -> None:
    with pytest.raises(UsageError, match="whatever the clip"):
        list(deaths_until_over(extraction, jobs(sounding), {clip.clip_id for clip in sounding}))
    assert (extraction.stores()[0].lookup(sounding).outcome == 3).sum() == MAX_CONSECUTIVE_FAILURES


def test_claims_are_exclusive_and_end_with_their_process(sounding: list[Clip], tmp_path: Path) -> None:
    marks = [claim_id("key", clip) for clip in sounding]
    code = f"""
import sys
from pathlib import Path
from avfuse.features.cache.claims import Claims
free, claim = Claims(Path({str(tmp_path)!r}), "set").acquire({marks[:4]})
print(free.tolist(), flush=True)
sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline().strip() == str([True] * 4)
    claims = Claims(tmp_path, "set")
    free, claim = claims.acquire(marks[2:6])
    assert free.tolist() == [False, False, True, True]
    assert sorted(claims.claimed_ids().tolist()) == sorted(marks[:6])
    other.kill()
    other.communicate()
    assert sorted(claims.claimed_ids().tolist()) == sorted(marks[4:6])
    assert claim is not None
    claim.release()
    assert claims.claimed_ids().size == 0
    assert {path.name for path in claims.folder.iterdir()} == {"board.lock"}


def test_where_no_locks_can_be_had_everything_is_free(
    sounding: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").write_text("a file where a folder should be")
    free, claim = Claims(tmp_path, "set").acquire([claim_id("key", clip) for clip in sounding])
    assert free.all()
    assert claim is None


def test_what_others_have_done_since_the_plan_is_left_out(extraction: ExtractionJob, sounding: list[Clip]) -> None:
    (store,) = extraction.stores()
    plan = plan_extraction([store], sounding)
    pictures = [np.zeros(PICTURE.shape, np.uint8)] * 2
    FeatureStore(extraction.cache, "set", PICTURE).commit(
        ChunkResult(PICTURE, done=[(clip, fingerprint(clip.path)) for clip in sounding[1:3]], data=pictures)
    )
    left = remaining_jobs([store], plan.jobs, (frozenset(),))
    assert [job.clip.clip_id for job in left] == [clip.clip_id for clip in (sounding[0], *sounding[3:])]


def test_chunks_follow_from_bytes_and_devices() -> None:
    small, large = (
        FeatureStore(Path(), "set", PICTURE.model_copy(update={"shape": shape})) for shape in ((8,), (2**22,))
    )
    assert chunk_size([small], 10_000, devices=1) == planning.CHUNK_CLIPS
    assert chunk_size([small, large], 10_000, devices=1) == planning.CHUNK_BYTES // 2**22
    assert chunk_size([small], 10_000, devices=1, read_per_clip=2**20) == planning.CHUNK_BYTES // 2**20
    assert chunk_size([small], 4000, devices=5) == 100
    assert chunk_size([small], 8, devices=4) == planning.MIN_CHUNK_CLIPS


def test_parts_of_a_manifest_are_all_of_it_once(sounding: list[Clip]) -> None:
    for parts in (1, 5, 12, 30):
        dealt = [clip for number in range(1, parts + 1) for clip in clip_range(sounding, number, parts)]
        assert dealt == sounding
    assert [len(chunk) for chunk in split_into_chunks(jobs(sounding), 5)] == [5, 5, 2]
