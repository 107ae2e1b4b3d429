"""What a cache goes through: runs killed at random moments, several runs at once, a cluster that loses a worker.

Each ordeal extracts the same clips as one unbroken run, and what is cached in the end must be the same to the byte.
`make torture` runs all of them (over an hour on two cores) and writes build/torture/result.json; `ORDEALS=kills,four`
picks some, `KILLS=20` makes it shorter. The figures of docs/reliability.md come from here.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.shard_reader import check_hash, read_shard
from avfuse.features.cache.store import DONE, FAILED
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.media import write_video

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "torture"
CLIPS, CHUNK_CLIPS, WORKERS = int(os.environ.get("CLIPS", "1200")), 16, 3
KILLS = int(os.environ.get("KILLS", "100"))
MAX_SECONDS_OF_WORK = 3.0
FEATURES = ["lite:frames", "image:mfcc", "audio:fbank"]
COLLECTION = "torture"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
"""One thread a network: with another number of them, sums come in another order and last digits out otherwise."""

Row = tuple[str, str, bytes | str]


def main() -> None:
    ordeals: dict[str, Callable[[Path, set[Row]], dict[str, Any]]] = {
        "kills": killed_again_and_again,
        "two": lambda folder, truth: runs_at_once(folder, truth, 2),
        "four": lambda folder, truth: runs_at_once(folder, truth, 4),
        "cluster": cluster_that_loses_a_worker,
    }
    chosen = os.environ.get("ORDEALS") or ",".join(ordeals)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_media(folder / "media")
        truth = unbroken(folder)
        print(f"unbroken: {len(truth)} rows", flush=True)
        for ordeal in chosen.split(","):
            (folder / ordeal).mkdir()
            started = time.monotonic()
            results[ordeal] = ordeals[ordeal](folder / ordeal, truth)
            results[ordeal]["minutes"] = round((time.monotonic() - started) / 60, 1)
            print(ordeal, json.dumps(results[ordeal]), flush=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "result.json").write_text(json.dumps(results, indent=2) + "\n")


def make_media(folder: Path) -> None:
    """Small clips, no two alike; one in twenty has no sound, one in twenty is cut short, one in forty is no video."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    time_ = np.arange(22050) / 22050
    models = []
    for number in range(40):
        frames = generator.integers(0, 255, (8, 48, 64, 3), dtype=np.uint8)
        sound = (0.3 * np.sin(2 * np.pi * (150 + 40 * number) * time_)).astype(np.float32)
        path = folder / "model.avi"
        if number % 20 == 3:
            write_video(path, frames, fps=8)
        else:
            write_video(path, frames, fps=8, waveform=sound, sample_rate_hz=22050)
        content = path.read_bytes()
        if number % 20 == 7:
            content = content[: len(content) // 3]
        models.append(b"no video\n" if number == 11 else content)
        path.unlink()
    for number in range(CLIPS):
        # A few bytes behind the end are no part of the video and make every file another one.
        (folder / f"clip{number:05d}.avi").write_bytes(models[number % 40] + number.to_bytes(8, "big"))


def clips_in(folder: Path) -> list[Clip]:
    return [Clip(path.stem, path) for path in sorted((folder / "media").glob("*.avi"))]


def unbroken(folder: Path) -> set[Row]:
    """The rows of a run that nothing happened to, and of a second one that tries again what failed."""
    for _ in range(2):
        finish(start(folder, folder / "unbroken"))
    return rows_in(folder, folder / "unbroken")


def rows_in(folder: Path, cache: Path) -> set[Row]:
    """What a reader finds: every clip with its row's bytes, or why there is none."""
    clips = clips_in(folder)
    rows: set[Row] = set()
    for spec in resolve(FEATURES, "uniform:1"):
        store = FeatureStore(cache, COLLECTION, spec)
        query = ClipQuery(clips)
        loaded, result = store.load(query), store.lookup(query)
        for index, clip in enumerate(clips):
            is_done = result.outcome[index] == DONE
            attempts = f" x{result.attempts[index]}" if result.outcome[index] == FAILED else ""
            value = loaded.data[index].tobytes() if is_done else loaded.missing[clip.clip_id] + attempts
            rows.add((spec.name, clip.clip_id, value))
    return rows


def start(folder: Path, cache: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(Path(__file__).with_name("one_run.py")), str(folder / "media"), str(cache), *options]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: "subprocess.Popen[str]") -> dict[str, int]:
    """Wait for a run to end well; what it says of itself."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"a run ended with {process.returncode}:\n{output[-3000:]}")
    return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]


def killed_again_and_again(folder: Path, truth: set[Row]) -> dict[str, Any]:
    """SIGKILL at a random moment of the work, to the run alone and to all its processes in turn."""
    media, cache = folder.parent, folder / "cache"
    moments = random.Random(0)
    kills = halves = finished = 0
    shards_at_kills: list[int] = []
    shared_before = shared_memory()
    while kills < KILLS:
        process = start(media, cache)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("to write"):
                break
        if moments.random() < 0.8:  # while shards are written; else while networks and processes are made ready
            before = shards_in(cache)
            while process.poll() is None and shards_in(cache) == before:
                time.sleep(0.05)
        time.sleep(moments.uniform(0, MAX_SECONDS_OF_WORK))
        if process.poll() is not None:
            # All is done before all kills were: from the start once more, and what is there must be right.
            finished += 1
            assert rows_of_keys(rows_in(media, cache)) == rows_of_keys(truth)
            shutil.rmtree(cache)
            continue
        if kills % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        process.stdout.close()
        kills += 1
        shards_at_kills.append(len(shards_in(cache)))
        for shard in shards_in(cache):
            check_hash(shard)
            read_shard(shard)
        if kills % 10 == 0:
            print(f"{kills} kills, {shards_at_kills[-1]} shards", flush=True)
        halves += len(list(cache.rglob("*.tmp")))
    for _ in range(2):
        finish(start(media, cache))
    same = rows_in(media, cache) == truth
    wait_for_children()
    left = len(shared_memory() - shared_before)
    repaired = avfuse("features", "verify", "--cache", str(cache), "--repair")
    again = avfuse("features", "verify", "--cache", str(cache))
    return {
        "kills": kills,
        "finished_meanwhile": finished,
        "temporary_files_seen": halves,
        "kills_with_shards_there": sum(count > 0 for count in shards_at_kills),
        "same_rows_and_failures": same,
        "verify_after_repair": again,
        "repair_said": repaired,
        "orphans_after_repair": orphans(cache),
        "processes_left": len(ours()),
        "shared_memory_left": left,
    }


def shards_in(cache: Path) -> set[Path]:
    return set(cache.rglob("shard-*.h5"))


def rows_of_keys(rows: set[Row]) -> set[Row]:
    """Without how often failures were tried, which depends on how often a run was started."""
    return {(name, clip, value if isinstance(value, bytes) else value.partition(" x")[0]) for name, clip, value in rows}


def runs_at_once(folder: Path, truth: set[Row], count: int) -> dict[str, Any]:
    cache = folder / "cache"
    summaries = [finish(process) for process in [start(folder.parent, cache) for _ in range(count)]]
    finish(start(folder.parent, cache))  # what failed is tried again, as in the unbroken case
    worked = sum(summary["new"] for summary in summaries)
    return {
        "runs": count,
        "clips": CLIPS,
        "clips_per_run": [summary["new"] for summary in summaries],
        "worked_on_twice": worked - CLIPS,
        "rows_twice": extra_rows(folder.parent, cache),
        "duplicated_share": round((worked - CLIPS) / CLIPS, 4),
        "same_rows_and_failures": rows_in(folder.parent, cache) == truth,
    }


def cluster_that_loses_a_worker(folder: Path, truth: set[Row]) -> dict[str, Any]:
    """A scheduler and three workers; one is killed, for good, in the midst of its work."""
    cache = folder / "cache"
    address = "tcp://127.0.0.1:18786"
    scheduler = background("dask", "scheduler", "--host", "127.0.0.1", "--port", "18786", "--no-dashboard")
    time.sleep(5)
    workers = [background("dask", "worker", address, "--nthreads", "1", "--no-nanny") for _ in range(3)]
    time.sleep(10)
    process = start(folder.parent, cache, address)
    while not list(cache.rglob("shard-*.h5")):
        time.sleep(0.2)
    time.sleep(1)
    workers[0].kill()
    summary = finish(process)
    finish(start(folder.parent, cache, address))
    for child in (*workers, scheduler):
        child.terminate()
        child.wait()
    return {
        "workers": 3,
        "clips": CLIPS,
        "clips_worked_on": summary["new"],
        "rows_twice": extra_rows(folder.parent, cache),
        "same_rows_and_failures": rows_in(folder.parent, cache) == truth,
    }


def extra_rows(folder: Path, cache: Path) -> int:
    clips = clips_in(folder)
    return sum(FeatureStore(cache, COLLECTION, spec).lookup(clips).extra for spec in resolve(FEATURES, "uniform:1"))


def background(*command: str) -> "subprocess.Popen[bytes]":
    environment = {**ENVIRONMENT, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    program = str(Path(sys.executable).with_name(command[0]))
    quiet = subprocess.DEVNULL
    return subprocess.Popen([program, *command[1:]], env=environment, stdout=quiet, stderr=quiet)


def avfuse(*arguments: str) -> str:
    program = str(Path(sys.executable).with_name("avfuse"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return f"exit code {done.returncode}: {(done.stdout + done.stderr).strip().splitlines()[-1]}"


def orphans(cache: Path) -> list[str]:
    """Files that are no shard, no spec.json and none of the two locks that a collection has."""
    known = {"spec.json", "board.lock", "upkeep.lock"}
    files = (path for path in cache.rglob("*") if path.is_file())
    return [str(path.relative_to(cache)) for path in files if path.suffix != ".h5" and path.name not in known]


def ours() -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "one_run.py" in " ".join(process.info["cmdline"] or [])
    ]


def wait_for_children(seconds: float = 20.0) -> None:
    """Processes whose parent was killed end by themselves."""
    end = time.monotonic() + seconds
    while ours() and time.monotonic() < end:
        time.sleep(0.5)


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("avfuse-*")}


if __name__ == "__main__":
    main()
