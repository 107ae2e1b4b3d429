"""The store of probed headers: what is in it is not probed again, and it is whole at any time."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from probing import copies, probe_files, stored_names

from avfuse.manifests import media_probes


def test_a_file_that_stayed_as_it_was_is_not_opened_again(media: Path, tmp_path: Path) -> None:
    path, other = copies(media / "good.avi", tmp_path, ["a.avi", "b.avi"])
    store = tmp_path / "store.parquet"
    first = probe_files([path], store)
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert probe_files([path], store).equals(first)
    both = probe_files([other, path], store)
    assert both["problem"].tolist() == [None, None]
    assert stored_names(store) == {"a.avi", "b.avi"}


def test_no_process_is_started_where_all_is_known(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    paths = [*sorted(media.iterdir()), tmp_path / "absent.avi"]
    first = probe_files(paths, tmp_path / "store.parquet")
    request.getfixturevalue("no_process")
    assert probe_files(paths, tmp_path / "store.parquet").equals(first)


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changed_is_probed_again(media: Path, tmp_path: Path, change: str) -> None:
    (path,) = copies(media / "good.avi", tmp_path, ["a.avi"])
    store = tmp_path / "store.parquet"
    assert probe_files([path], store)["has_audio"].tolist() == [True]
    state = path.stat()
    content = (media / "no_sound.avi").read_bytes()
    if change == "size":
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        path.write_bytes(content.ljust(state.st_size, b"\0")[: state.st_size])
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert probe_files([path], store)["has_audio"].tolist() == [False]
    assert pq.read_table(store).num_rows == 1


def test_a_new_file_is_probed_and_a_removed_one_is_missing(media: Path, tmp_path: Path) -> None:
    path, store = tmp_path / "a.avi", tmp_path / "store.parquet"
    assert probe_files([path], store)["size"].tolist() == [-1]
    shutil.copyfile(media / "good.avi", path)
    assert probe_files([path], store)["problem"].tolist() == [None]
    path.unlink()
    assert probe_files([path], store)[["size", "problem"]].to_numpy().tolist() == [[-1, "file not found"]]


def test_a_name_that_is_no_text_is_stored_too(media: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 \xff.avi")
    shutil.copyfile(media / "good.avi", path)
    first = probe_files([path], tmp_path / "store.parquet")
    assert first["problem"].tolist() == [None]
    request.getfixturevalue("no_process")
    assert probe_files([path], tmp_path / "store.parquet").equals(first)


def test_files_in_an_archive_are_probed_again_when_the_archive_changes(
    media: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    archive, store = tmp_path / "clips.tar", tmp_path / "store.parquet"
    paths = [archive / "video" / name for name in ("a.avi", "b.avi", "absent.avi")]

    def probe_archive(first: str) -> pd.DataFrame:
        with tarfile.open(archive, "w") as tar:
            tar.add(media / first, "video/a.avi")
            tar.add(media / "text.avi", "video/b.avi")
        return probe_files(paths, store)

    probes = probe_archive("good.avi")
    assert probes["size"].tolist() == [(media / "good.avi").stat().st_size, (media / "text.avi").stat().st_size, -1]
    assert probes["has_audio"].tolist() == [True, False, False]
    assert probes["problem"].isna().tolist() == [True, False, False]
    later = probe_archive("no_sound.avi")
    assert later["has_video"].tolist() == [True, False, False]
    assert later["has_audio"].tolist() == [False, False, False]
    request.getfixturevalue("no_process")
    assert probe_files(paths, store).equals(later)


ASK = """
import sys
from pathlib import Path

if __name__ == "__main__":
    import avfuse_probe_trouble
    from avfuse.manifests import media_probes

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
    kept = stored_names(store)
    assert 0 < len(kept) < 200
    assert not list(store.parent.glob(".*.tmp")) or how is signal.SIGKILL
    opened.unlink()
    (tmp_path / "hold").unlink()
    assert probe_files(paths, store)["problem"].tolist() == [None] * 200
    assert sorted(opened.read_text().split()) == sorted({path.name for path in paths} - kept)


@pytest.mark.parametrize("damage", ["cut short", "changed within", "empty", "something else"])
def test_a_damaged_store_is_replaced_with_a_warning(
    media: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store, path = tmp_path / "store.parquet", media / "good.avi"
    first = probe_files([path], store)
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
        assert probe_files([path], store).equals(first)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{store} is damaged")
    assert "\n" not in record.getMessage()
    assert stored_names(store) == {"good.avi"}


def test_a_store_of_another_revision_is_not_used(media: Path, tmp_path: Path) -> None:
    store, path = tmp_path / "store.parquet", media / "good.avi"
    first = probe_files([path], store)
    table = pq.read_table(store)
    wrong = table.set_column(table.column_names.index("width"), "width", pa.array([1.0]))
    pq.write_table(wrong.replace_schema_metadata({"avfuse": "probes 0"}), store)
    assert probe_files([path], store).equals(first)


def test_rows_that_others_write_meanwhile_stay(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store.parquet"
    real = media_probes._results

    def while_another_writes(*arguments: Any) -> Iterator[Any]:
        monkeypatch.setattr(media_probes, "_results", real)
        results = list(real(*arguments))
        probe_files([media / "no_sound.avi", media / "good.avi"], store)
        yield from results

    monkeypatch.setattr(media_probes, "_results", while_another_writes)
    probes = probe_files([media / "good.avi", media / "silent.avi"], store)
    assert probes["problem"].tolist() == [None, None]
    assert stored_names(store) == {"no_sound.avi", "good.avi", "silent.avi"}
    assert pq.read_table(store).num_rows == 3


def test_a_store_is_whole_whenever_it_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of writes that meet, the last one wins: the other's files are probed again, and nothing is damaged."""
    store = tmp_path / "store.parquet"
    result = {"size": 1, "mtime_ns": 1, "has_video": True, "has_audio": True}
    rows = [[{"path": b"%d of %d" % (rank, writer), **result} for rank in range(100)] for writer in range(3)]
    with ThreadPoolExecutor(3) as writers:
        tasks = [
            writers.submit(lambda part: [media_probes._add_to_store(part, store) for _ in range(20)], part)
            for part in rows
        ]
        while not all(task.done() for task in tasks):
            assert media_probes._read_store(store, warn=True).num_rows in (0, 100, 200, 300)
    for task in tasks:
        task.result()
    assert not caplog.records
    assert [path.name for path in tmp_path.iterdir()] == ["store.parquet"]
