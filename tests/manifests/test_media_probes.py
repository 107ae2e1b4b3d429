"""Headers of media files, whatever the files do to the processes that open them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from probing import copies, probe_files, stored_names

from avfuse.features.media import write_video
from avfuse.manifests import media_probes
from avfuse.manifests.media_probes import COLUMNS


def test_fields_are_what_the_files_are(media: Path, tmp_path: Path) -> None:
    frames = np.zeros((30, 96, 128, 3), np.uint8)
    stereo = np.zeros((32000, 2), np.float32)
    seen = write_video(tmp_path / "seen.mp4", frames, fps=15, waveform=stereo, sample_rate_hz=16000, audio_codec="aac")
    unseen = write_video(tmp_path / "mute.mkv", frames, fps=30)
    probes = probe_files([seen, unseen, media / "good.avi"], tmp_path / "store.parquet")
    assert tuple(probes) == COLUMNS
    assert probes["size"].tolist() == [path.stat().st_size for path in (seen, unseen, media / "good.avi")]
    assert probes["has_video"].tolist() == [True, True, True]
    assert probes["has_audio"].tolist() == [True, False, True]
    assert probes["duration_seconds"].tolist() == pytest.approx([2, 1, 2], abs=0.1)
    assert probes["width"].tolist() == [128, 128, 64]
    assert probes["height"].tolist() == [96, 96, 48]
    assert probes["frames_per_second"].tolist() == [15, 30, 25]
    assert probes["sample_rate_hz"].fillna(0).tolist() == [16000, 0, 44100]
    assert probes["channels"].fillna(0).tolist() == [2, 0, 1]
    assert probes["problem"].tolist() == [None] * 3


def test_what_is_wrong_with_a_file_is_said_in_one_line(media: Path, tmp_path: Path) -> None:
    paths = [media / "empty.avi", media / "text.avi", tmp_path / "absent.avi", media, media / "silent.avi"]
    store = tmp_path / "store.parquet"
    probes = probe_files(paths, store)
    assert probes["problem"].tolist() == [
        "file is empty (0 bytes)",
        "not a readable media file (Invalid data found when processing input)",
        "file not found",
        "is a folder",
        None,
    ]
    assert probes["size"].tolist()[:3] == [0, (media / "text.avi").stat().st_size, -1]
    assert probes["has_video"].tolist() == probes["has_audio"].tolist() == [False] * 4 + [True]
    assert probes.loc[:3, "duration_seconds":"channels"].isna().all(axis=None)
    assert stored_names(store) == {"empty.avi", "text.avi", media.name, "silent.avi"}


def test_rows_follow_the_given_paths_and_repeat_with_them(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_probes, "BATCH_FILES", 1)
    names = ["silent.avi", "absent.avi", "no_sound.avi", "good.avi", "silent.avi", "text.avi", "no_sound.avi"]
    store = tmp_path / "store.parquet"
    probes = probe_files([media / name for name in names], store)
    assert probes.index.tolist() == list(range(7))
    assert probes["has_audio"].tolist() == [True, False, False, True, True, False, False]
    assert probes.iloc[0].equals(probes.iloc[4])
    assert pq.read_table(store).num_rows == 4


def test_no_paths_give_an_empty_table(tmp_path: Path, no_process: None) -> None:
    probes = probe_files([], tmp_path / "store.parquet")
    assert (len(probes), tuple(probes)) == (0, COLUMNS)
    assert not (tmp_path / "store.parquet").exists()


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
    probes = probe_files(paths, store, seconds=seconds)
    problems = dict(zip(names, probes["problem"], strict=True))
    assert {name: problem for name, problem in problems.items() if problem is not None} == troubles
    sound = [name for name in names if len(name) == 1]
    assert probes["has_audio"].tolist() == [name in sound for name in names]
    assert stored_names(store) == set(sound)
    monkeypatch.undo()
    assert probe_files(paths, store)["problem"].tolist() == [None] * len(names)
    assert stored_names(store) == set(names)


def test_probing_processes_import_neither_pandas_nor_torch() -> None:
    others = "{'pandas', 'torch', 'avfuse.manifests'}"
    code = f"import sys, avfuse.features.media; sys.exit(bool({others} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
