"""Headers are asked once and remembered, whatever the files do to the processes that open them."""

import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avfuse.features.media import write_video
from avfuse.manifests import media_probes
from avfuse.manifests.media_probes import COLUMNS, probe_media


def ask(paths: list[Path], store: Path, **options: Any) -> pd.DataFrame:
    return probe_media(paths, store, **{"jobs": 2, "progress": False, **options})


def remembered(store: Path) -> set[str]:
    return {os.path.basename(path).decode() for path in pq.read_table(store)["path"].to_pylist()}


def copies(source: Path, folder: Path, names: Iterable[str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [shutil.copyfile(source, folder / name) for name in names]


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(count: int) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(media_probes, "_processes", refuse)


def test_fields_are_what_the_files_are(media: Path, tmp_path: Path) -> None:
    frames = np.zeros((30, 96, 128, 3), np.uint8)
    stereo = np.zeros((32000, 2), np.float32)
    seen = write_video(tmp_path / "seen.mp4", frames, fps=15, waveform=stereo, sample_rate_hz=16000, audio_codec="aac")
    unseen = write_video(tmp_path / "mute.mkv", frames, fps=30)
    found = ask([seen, unseen, media / "good.avi"], tmp_path / "store.parquet")
    assert tuple(found) == COLUMNS
    assert found["size"].tolist() == [path.stat().st_size for path in (seen, unseen, media / "good.avi")]
    assert found["has_video"].tolist() == [True, True, True]
    assert found["has_audio"].tolist() == [True, False, True]
    assert found["duration_seconds"].tolist() == pytest.approx([2, 1, 2], abs=0.1)
    assert found["width"].tolist() == [128, 128, 64]
    assert found["height"].tolist() == [96, 96, 48]
    assert found["frames_per_second"].tolist() == [15, 30, 25]
    assert found["sample_rate_hz"].fillna(0).tolist() == [16000, 0, 44100]
    assert found["channels"].fillna(0).tolist() == [2, 0, 1]
    assert found["problem"].tolist() == [None] * 3


def test_what_is_wrong_with_a_file_is_said_in_one_line(media: Path, tmp_path: Path) -> None:
    paths = [media / "empty.avi", media / "text.avi", tmp_path / "absent.avi", media, media / "silent.avi"]
    store = tmp_path / "store.parquet"
    found = ask(paths, store)
    assert found["problem"].tolist() == [
        "file is empty (0 bytes)",
        "not a readable media file (Invalid data found when processing input)",
        "file not found",
        "is a folder",
        None,
    ]
    assert found["size"].tolist()[:3] == [0, (media / "text.avi").stat().st_size, -1]
    assert found["has_video"].tolist() == found["has_audio"].tolist() == [False] * 4 + [True]
    assert found.loc[:3, "duration_seconds":"channels"].isna().all(axis=None)
    assert remembered(store) == {"empty.avi", "text.avi", media.name, "silent.avi"}


def test_rows_follow_the_paths_asked_and_repeat_with_them(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_probes, "BATCH_FILES", 1)
    names = ["silent.avi", "absent.avi", "no_sound.avi", "good.avi", "silent.avi", "text.avi", "no_sound.avi"]
    store = tmp_path / "store.parquet"
    found = ask([media / name for name in names], store)
    assert found.index.tolist() == list(range(7))
    assert found["has_audio"].tolist() == [True, False, False, True, True, False, False]
    assert found.iloc[0].equals(found.iloc[4])
    assert pq.read_table(store).num_rows == 4


def test_nothing_asked_is_an_empty_table(tmp_path: Path, no_process: None) -> None:
    found = ask([], tmp_path / "store.parquet")
    assert (len(found), tuple(found)) == (0, COLUMNS)
    assert not (tmp_path / "store.parquet").exists()


def test_a_file_that_stayed_as_it_was_is_not_opened_again(media: Path, tmp_path: Path) -> None:
    path, other = copies(media / "good.avi", tmp_path, ["a.avi", "b.avi"])
    store = tmp_path / "store.parquet"
    first = ask([path], store)
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert ask([path], store).equals(first)
    both = ask([other, path], store)
    assert both["problem"].tolist() == [None, None]
    assert remembered(store) == {"a.avi", "b.avi"}


def test_no_process_is_started_where_all_is_known(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    paths = [*sorted(media.iterdir()), tmp_path / "absent.avi"]
    first = ask(paths, tmp_path / "store.parquet")
    request.getfixturevalue("no_process")
    assert ask(paths, tmp_path / "store.parquet").equals(first)


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changed_is_asked_again(media: Path, tmp_path: Path, change: str) -> None:
    (path,) = copies(media / "good.avi", tmp_path, ["a.avi"])
    store = tmp_path / "store.parquet"
    assert ask([path], store)["has_audio"].tolist() == [True]
    state = path.stat()
    content = (media / "no_sound.avi").read_bytes()
    if change == "size":
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        path.write_bytes(content.ljust(state.st_size, b"\0")[: state.st_size])
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert ask([path], store)["has_audio"].tolist() == [False]
    assert pq.read_table(store).num_rows == 1


def test_a_file_that_came_is_asked_and_one_that_went_is_absent(media: Path, tmp_path: Path) -> None:
    path, store = tmp_path / "a.avi", tmp_path / "store.parquet"
    assert ask([path], store)["size"].tolist() == [-1]
    shutil.copyfile(media / "good.avi", path)
    assert ask([path], store)["problem"].tolist() == [None]
    path.unlink()
    assert ask([path], store)[["size", "problem"]].to_numpy().tolist() == [[-1, "file not found"]]


def test_a_name_that_is_no_text_is_remembered_too(media: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 \xff.avi")
    shutil.copyfile(media / "good.avi", path)
    first = ask([path], tmp_path / "store.parquet")
    assert first["problem"].tolist() == [None]
    request.getfixturevalue("no_process")
    assert ask([path], tmp_path / "store.parquet").equals(first)


def test_files_in_an_archive_are_asked_until_the_archive_changes(
    media: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    archive, store = tmp_path / "clips.tar", tmp_path / "store.parquet"
    paths = [archive / "video" / name for name in ("a.avi", "b.avi", "absent.avi")]

    def ask_with(first: str) -> pd.DataFrame:
        with tarfile.open(archive, "w") as tar:
            tar.add(media / first, "video/a.avi")
            tar.add(media / "text.avi", "video/b.avi")
        return ask(paths, store)

    found = ask_with("good.avi")
    assert found["size"].tolist() == [(media / "good.avi").stat().st_size, (media / "text.avi").stat().st_size, -1]
    assert found["has_audio"].tolist() == [True, False, False]
    assert found["problem"].isna().tolist() == [True, False, False]
    later = ask_with("no_sound.avi")
    assert later["has_video"].tolist() == [True, False, False]
    assert later["has_audio"].tolist() == [False, False, False]
    request.getfixturevalue("no_process")
    assert ask(paths, store).equals(later)


TROUBLE = """
import ctypes, os, signal, time
from pathlib import Path
from avfuse.features.errors import ClipError
from avfuse.features.media import probe as real_probe

def probe(path):
    with open(os.environ["AVFUSE_OPENED"], "a") as opened:
        opened.write(f"{path.name}\\n")
    trouble = path.name.split("_")[0]
    if trouble == "hangs":
        ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter lock: no Python code runs meanwhile
    if trouble == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if trouble == "refused":
        raise ClipError("open", "not a readable media file (Input/output error)")
    if trouble == "odd":
        raise RuntimeError("two\\nlines")
    if trouble == "waits" and Path(os.environ["AVFUSE_OPENED"]).with_name("hold").exists():
        time.sleep(600)
    return real_probe(path)
"""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes, in which a file now does what its name says, note what they open."""
    (tmp_path / "avfuse_probe_trouble.py").write_text(TROUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AVFUSE_OPENED", str(tmp_path / "opened.txt"))
    monkeypatch.delitem(sys.modules, "avfuse_probe_trouble", raising=False)
    monkeypatch.setattr(media_probes, "probe", importlib.import_module("avfuse_probe_trouble").probe)
    return tmp_path / "opened.txt"


@pytest.mark.parametrize(
    ("troubles", "seconds"),
    [
        (
            {
                "crashes": "the probing process died",
                "odd": "RuntimeError: two lines",
                "refused": "not a readable media file (Input/output error)",
                "crashes_again": "the probing process died",
            },
            60,
        ),
        pytest.param({"hangs": "took longer than 30 s"}, 30, marks=pytest.mark.slow),
    ],
)
def test_a_crash_and_a_hang_cost_only_their_files(
    media: Path,
    tmp_path: Path,
    opened: Path,
    monkeypatch: pytest.MonkeyPatch,
    troubles: dict[str, str],
    seconds: float,
) -> None:
    names = ["a", *troubles, "b", "c", "d", "e", "f", "g"]
    paths = copies(media / "good.avi", tmp_path / "clips", names)
    store = tmp_path / "store.parquet"
    found = ask(paths, store, seconds=seconds)
    problems = dict(zip(names, found["problem"], strict=True))
    assert {name: problem for name, problem in problems.items() if problem is not None} == troubles
    sound = [name for name in names if len(name) == 1]
    assert found["has_audio"].tolist() == [name in sound for name in names]
    assert remembered(store) == set(sound)
    monkeypatch.undo()
    assert ask(paths, store)["problem"].tolist() == [None] * len(names)
    assert remembered(store) == set(names)


ASK = """
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    import avfuse_probe_trouble
    from avfuse.manifests import media_probes

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
    media_probes.probe, media_probes.SAVE_SECONDS = avfuse_probe_trouble.probe, float(sys.argv[1])
    media_probes.probe_media(sorted(Path(sys.argv[2]).iterdir()), Path(sys.argv[3]), jobs=2, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "save_seconds"), [(signal.SIGINT, 60), (signal.SIGKILL, 0)])
def test_a_run_that_is_ended_keeps_what_it_had(
    media: Path, tmp_path: Path, opened: Path, how: signal.Signals, save_seconds: float
) -> None:
    paths = copies(
        media / "good.avi",
        tmp_path / "clips",
        [f"{'fine' if number < 150 else 'waits'}_{number:03d}" for number in range(200)],
    )
    store = tmp_path / "probes" / "store.parquet"
    (tmp_path / "ask.py").write_text(ASK)
    (tmp_path / "hold").touch()
    command = [sys.executable, str(tmp_path / "ask.py"), str(save_seconds), str(tmp_path / "clips"), str(store)]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, start_new_session=True, stderr=subprocess.PIPE
    ) as run:
        while not (opened.exists() and len(opened.read_text().splitlines()) >= 80):
            assert run.poll() is None
            time.sleep(0.02)
        os.killpg(run.pid, how)  # as a terminal's Ctrl-C does
        run.communicate()
    assert run.returncode != 0
    kept = remembered(store)
    assert 0 < len(kept) < 200
    assert not list(store.parent.glob(".*.tmp")) or how is signal.SIGKILL
    opened.unlink()
    (tmp_path / "hold").unlink()
    assert ask(paths, store)["problem"].tolist() == [None] * 200
    assert sorted(opened.read_text().split()) == sorted({path.name for path in paths} - kept)


@pytest.mark.parametrize("damage", ["cut short", "changed within", "empty", "something else"])
def test_a_damaged_store_is_made_anew_and_said_so(
    media: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store, path = tmp_path / "store.parquet", media / "good.avi"
    first = ask([path], store)
    content = bytearray(store.read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    elif damage == "changed within":
        at = content.index(b"good.avi")
        content[at] ^= 1
    elif damage == "empty":
        content.clear()
    else:
        content = bytearray(b"a table of something else")
    store.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert ask([path], store).equals(first)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{store} is damaged")
    assert "\n" not in record.getMessage()
    assert remembered(store) == {"good.avi"}


def test_a_store_of_another_revision_is_asked_anew(media: Path, tmp_path: Path) -> None:
    store, path = tmp_path / "store.parquet", media / "good.avi"
    first = ask([path], store)
    table = pq.read_table(store)
    wrong = table.set_column(table.column_names.index("width"), "width", pa.array([1.0]))
    pq.write_table(wrong.replace_schema_metadata({"avfuse": "probes 0"}), store)
    assert ask([path], store).equals(first)


def test_what_others_write_meanwhile_stays(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store.parquet"
    real = media_probes._answers

    def while_another_writes(*arguments: Any) -> Iterator[Any]:
        monkeypatch.setattr(media_probes, "_answers", real)
        answers = list(real(*arguments))
        ask([media / "no_sound.avi", media / "good.avi"], store)
        yield from answers

    monkeypatch.setattr(media_probes, "_answers", while_another_writes)
    found = ask([media / "good.avi", media / "silent.avi"], store)
    assert found["problem"].tolist() == [None, None]
    assert remembered(store) == {"no_sound.avi", "good.avi", "silent.avi"}
    assert pq.read_table(store).num_rows == 3


def test_a_store_is_whole_whenever_it_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of writes that meet, the last one wins: the other's files are asked again, and nothing is damaged."""
    store = tmp_path / "store.parquet"
    answer = {"size": 1, "mtime_ns": 1, "has_video": True, "has_audio": True}
    rows = [[{"path": b"%d of %d" % (rank, writer), **answer} for rank in range(100)] for writer in range(3)]
    with ThreadPoolExecutor(3) as writers:
        done = [
            writers.submit(lambda part: [media_probes._remember(part, store) for _ in range(20)], part) for part in rows
        ]
        while not all(each.done() for each in done):
            assert media_probes._read(store, tell=True).num_rows in (0, 100, 200, 300)
    for each in done:
        each.result()
    assert not caplog.records
    assert [path.name for path in tmp_path.iterdir()] == ["store.parquet"]


def test_probing_processes_import_neither_pandas_nor_torch() -> None:
    others = "{'pandas', 'torch', 'avfuse.manifests'}"
    code = f"import sys, avfuse.features.media; sys.exit(bool({others} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
