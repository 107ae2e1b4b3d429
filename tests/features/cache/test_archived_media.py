"""Clips in archives are known by their content, and planning looks at each archive once."""

import os
import random
from pathlib import Path

import pytest
from packing import BOTH, PACKED, PLAIN, pack

from avfuse.features import archives
from avfuse.features.archives import members
from avfuse.features.cache import ClipQuery, fingerprint
from avfuse.features.cache.fingerprint import MISSING, UNREADABLE
from avfuse.features.clips import Clip

KIB = 1024
SIZES = (0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 300 * KIB)
NOISE = random.Random(0)


@pytest.mark.parametrize("archive", BOTH)
def test_a_member_has_the_fingerprint_of_the_file(tmp_path: Path, archive: str) -> None:
    files = {f"{size}.mp4": NOISE.randbytes(size) for size in SIZES}
    packed = pack(tmp_path / archive, files)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        actual, expected = fingerprint(packed / name), fingerprint(tmp_path / name)
        assert (actual.size, actual.digest) == (expected.size, expected.digest)
        assert actual.mtime_ns == packed.stat().st_mtime_ns
        assert ClipQuery([Clip("a", packed / name)]).digest(0) == expected.digest


@pytest.mark.parametrize("archive", BOTH)
def test_what_is_not_there_has_no_fingerprint(tmp_path: Path, archive: str) -> None:
    packed = pack(tmp_path / archive, {"a.mp4": b"content"})
    assert fingerprint(packed / "none.mp4") == MISSING
    assert fingerprint(tmp_path / "none.tar" / "a.mp4") == MISSING
    (tmp_path / "text.tar").write_text("no archive")
    assert fingerprint(tmp_path / "text.tar" / "a.mp4") == MISSING


def test_a_member_that_cannot_be_read_has_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(tmp_path / PLAIN, {"a.mp4": b"content"})

    def refuse(self: archives.ArchiveIndex, start: int, count: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(archives.ArchiveIndex, "read", refuse)
    actual = fingerprint(packed / "a.mp4")
    assert (actual.size, actual.mtime_ns, actual.digest) == (7, packed.stat().st_mtime_ns, UNREADABLE)


def test_clips_in_archives_stand_beside_others(tmp_path: Path) -> None:
    (tmp_path / "plain.mp4").write_bytes(b"1")
    (tmp_path / "x.tar").mkdir()
    (tmp_path / "x.tar" / "a.mp4").write_bytes(b"22")
    paths = [tmp_path / "plain.mp4", tmp_path / "x.tar" / "a.mp4"]
    for name in BOTH:
        archive = pack(tmp_path / name, {"top.mp4": b"333", "./video/a.mp4": b"4444"})
        paths += [archive / "top.mp4", archive / "video/a.mp4", archive / "video/none.mp4", archive / "none/a.mp4"]
    (tmp_path / "bad.tar").write_bytes(b"text" * 1000)
    paths += [tmp_path / "bad.tar" / "a.mp4", tmp_path / "none.tar" / "a.mp4", tmp_path / "none" / "a.mp4"]
    sizes, times = ClipQuery([Clip(str(path), path) for path in paths]).media
    assert sizes.tolist() == [1, 2, *(3, 4, -1, -1) * 2, -1, -1, -1]
    assert times[2] == times[3] == (tmp_path / PLAIN).stat().st_mtime_ns
    assert times[6] == (tmp_path / PACKED).stat().st_mtime_ns


def test_many_clips_of_an_archive_ask_for_it_once_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"class{number % 5}/{number}.mp4" for number in range(3000)]
    archive = pack(tmp_path / PACKED, dict.fromkeys(names, b"content"))
    archives.index(archive)
    split, split_paths, stat_paths, stat = members.split_archive_path, [], [], os.stat
    monkeypatch.setattr(members, "split_archive_path", lambda path: (split_paths.append(path), split(path))[1])
    monkeypatch.setattr(os, "stat", lambda path, **options: (stat_paths.append(path), stat(path, **options))[1])
    sizes, _ = ClipQuery([Clip(name, archive / name) for name in [*names, "class0/none.mp4"]]).media
    assert sizes.tolist() == [7] * 3000 + [-1]
    assert len(split_paths) == 5
    assert len(stat_paths) <= 15  # each folder, and the archive for it; before that, whether it has an index
