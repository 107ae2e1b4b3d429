"""DatasetDescription a data set of 200,000 clips, and looking into the headers of media files.

`manifest_200k_seconds` is the whole command, as typed: imports, a list of 200,000 rows and 309 classes, as many files
in 200 folders, the manifest written. `manifest_200_seconds` is the same with 200 rows: what is spent before there is
anything to do.

Headers are asked of links to 24 distinct clips in six containers, for a store that is empty each time, so that every
file is opened; starting the processes is part of it. The rivals: the same with one process; a loop in this process,
that keeps nothing and ends with the first file that FFmpeg crashes on; and ffprobe, a process a file, as many at once
as there are cores, where it is installed. `probe_known_13k_seconds` asks for what the store has: nothing is opened.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pairs import Figure, compare, write

from avfuse.features.media import probe, write_video
from avfuse.manifests.media_probes import probe_media
from avfuse.threads import available_cores

ROWS, FEW_ROWS, CLASSES, FOLDERS, TIMES = 200_000, 200, 309, 200, 7
FILES, FEW_FILES, KNOWN_FILES = 3_000, 600, 13_000
CORES = available_cores()

RATE_HZ = 48_000
KINDS = (
    (".avi", "mpeg4", "libmp3lame"),
    (".mp4", "libx264", "aac"),
    (".mkv", "libx264", "libmp3lame"),
    (".webm", "libvpx", "libopus"),
    (".mov", "mpeg4", "aac"),
    (".mpg", "mpeg2video", "mp2"),
)
SHAPES = ((320, 240, 25), (340, 256, 30), (426, 240, 25), (456, 256, 30))

FIELDS = ("duration_seconds", "width", "height", "frames_per_second", "sample_rate_hz", "channels")
Header = tuple[float, ...]
"""FIELDS of one file; 0 where it has none."""


def main() -> None:
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for label, count in (("200", FEW_ROWS), ("200k", ROWS)):
            figures.append(listing_figure(f"manifest_{label}_seconds", Path(name) / label, count))
    with tempfile.TemporaryDirectory() as name:
        figures += probe_figures(Path(name))
    write("manifest", figures)


def listing_figure(name: str, folder: Path, count: int) -> Figure:
    make_vggsound(folder, count)
    avfuse = Path(sys.executable).with_name("avfuse")

    def build() -> None:
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        options = ["--root", folder / "media", "--annotations", folder / "lists", "--cache", cache, "--no-probe"]
        subprocess.run([avfuse, "manifest", "vggsound", *options], check=True, stdout=subprocess.DEVNULL)

    build()
    table = pd.read_parquet(folder / "cache" / "manifests" / "vggsound.parquet")
    assert len(table) == count
    assert table["label"].nunique() == min(CLASSES, count)
    return seconds_figure(name, build)


def make_vggsound(folder: Path, count: int) -> None:
    """A list in the form of VGGSound's, one excerpt a video, and a file of one byte for each."""
    generator = np.random.default_rng(0)
    starts = generator.integers(0, 300, count)
    folders = [folder / "media" / f"{number:03d}" for number in range(FOLDERS)]
    for each in (folder / "lists", *folders):
        each.mkdir(parents=True)
    with (folder / "lists" / "vggsound.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for rank, start in enumerate(starts.tolist()):
            video, label = f"{rank * 7919 % 10**8:08d}-_x", f"class {rank % CLASSES}"
            split = "test" if generator.random() < 0.08 else "train"
            rows.writerow([video, start, f"{label}, indoors" if rank % 3 else label, split])
            (folders[rank % FOLDERS] / f"{video}_{start:06d}.mp4").write_bytes(b"x")


def seconds_figure(name: str, work: Callable[[], object]) -> Figure:
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    print(f"({name}: {min(seconds):.2f} to {max(seconds):.2f})")
    return Figure(name, median, "s", low, high, TIMES)


def probe_figures(folder: Path) -> list[Figure]:
    files = make_links(folder / "links", make_clips(folder / "clips"), KNOWN_FILES)
    asked, few = files[:FILES], files[:FEW_FILES]
    store = folder / "store.parquet"

    def ours(paths: Sequence[Path], jobs: int = CORES) -> list[Header]:
        store.unlink(missing_ok=True)
        return headers(probe_media(paths, store, jobs=jobs, progress=False))

    assert ours(few) == loop(few)
    taken = seconds_figure(f"probe_{FILES}_seconds", lambda: ours(asked))
    rate = Figure("probe_files_per_second", FILES / taken.value, "/s", FILES / taken.high, FILES / taken.low, taken.n)
    figures = [rate]
    if CORES > 1:
        speedup = compare("probe_speedup_over_one_process", lambda: ours(asked), lambda: ours(asked, 1), speedup=True)
        figures += [speedup, per_core("probe_parallel_efficiency", speedup)]
    figures.append(compare("probe_speedup_over_loop", lambda: ours(asked), lambda: loop(asked), speedup=True))
    if shutil.which("ffprobe"):
        assert ours(few) == ffprobes(few)
        figures.append(compare("probe_speedup_over_ffprobe", lambda: ours(few), lambda: ffprobes(few), speedup=True))
    else:
        print("(ffprobe is not installed: left out)")
    ours(files)
    known = seconds_figure("probe_known_13k_seconds", lambda: probe_media(files, store, progress=False))
    return [*figures, known]


def per_core(name: str, speedup: Figure) -> Figure:
    value, low, high = (each / CORES for each in (speedup.value, speedup.low, speedup.high))
    return replace(speedup, name=name, value=value, low=low, high=high)


def headers(found: pd.DataFrame) -> list[Header]:
    assert found["problem"].isna().all()
    return [header(row._asdict()) for row in found.itertuples()]


def loop(paths: Sequence[Path]) -> list[Header]:
    """What a script does: one after the other, and nothing kept."""
    return [header(vars(probe(path))) for path in paths]


def ffprobes(paths: Sequence[Path]) -> list[Header]:
    with ThreadPoolExecutor(CORES) as threads:
        return list(threads.map(ffprobe, paths))


def ffprobe(path: Path) -> Header:
    wanted = "format=duration:stream=codec_type,width,height,avg_frame_rate,sample_rate,channels"
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_entries", wanted, path]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    streams = {stream["codec_type"]: stream for stream in told["streams"]}
    video, audio = streams.get("video", {}), streams.get("audio", {})
    return header(
        {
            "duration_seconds": float(told["format"]["duration"]),
            "width": video.get("width"),
            "height": video.get("height"),
            "frames_per_second": float(Fraction(video["avg_frame_rate"])) if video else None,
            "sample_rate_hz": audio.get("sample_rate"),
            "channels": audio.get("channels"),
        }
    )


def header(fields: Mapping[str, Any]) -> Header:
    """Numbers, with 0 where there is none."""
    numbers = [fields[name] for name in FIELDS]
    return tuple(round(float(number), 3) if pd.notna(number) else 0.0 for number in numbers)


def make_clips(folder: Path) -> list[Path]:
    """Clips of two seconds, of each kind in four shapes, every fourth without sound."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    clips = []
    for kind, (suffix, video_codec, audio_codec) in enumerate(KINDS):
        for rank, (width, height, fps) in enumerate(SHAPES):
            texture = generator.integers(0, 255, (height, width + 60, 3), dtype=np.uint8)
            frames = [texture[:, shift : shift + width] for shift in range(2 * fps)]
            sound = None if rank == kind % 4 else generator.uniform(-0.3, 0.3, 2 * RATE_HZ)
            clips.append(
                write_video(
                    folder / f"{kind}_{rank}{suffix}",
                    frames,
                    fps=fps,
                    waveform=sound,
                    sample_rate_hz=None if sound is None else RATE_HZ,
                    video_codec=video_codec,
                    audio_codec=audio_codec,
                )
            )
    return clips


def make_links(folder: Path, clips: Sequence[Path], count: int) -> list[Path]:
    """So many names for the clips, 1,000 in a folder."""
    paths = []
    for rank in range(count):
        clip = clips[rank % len(clips)]
        path = folder / f"{rank // 1000:03d}" / f"{rank:06d}{clip.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(clip, path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
