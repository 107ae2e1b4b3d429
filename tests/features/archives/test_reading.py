"""Members of archives are read in place, from any position, whatever they were packed with."""

import gzip
import io
import os
import random
from pathlib import Path

import pytest
from archived import FILES, NOISE, content_of, forget_indices
from packing import BOTH, PACKED, PLAIN, pack

from avfuse.features import archives
from avfuse.features.archives import indexing


@pytest.mark.parametrize("name", BOTH)
def test_every_member_is_there_in_order_and_whole(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    assert list(archives.list_members(archive).items()) == [(name, len(content)) for name, content in FILES.items()]
    assert archives.index(archive).problem is None
    for name, content in random.Random(1).sample(sorted(FILES.items()), len(FILES)):
        assert content_of(archive, name) == content


@pytest.mark.parametrize("name", BOTH)
def test_any_stretch_of_a_large_member_can_be_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avfuse.features.archives.members.WHOLE_BYTES", 0)
    monkeypatch.setattr(indexing, "_PLAIN_CHUNK", 30_000)
    content = NOISE.randbytes(1_000_000)
    archive = pack(tmp_path / name, {"before.mp4": NOISE.randbytes(333), "long.mp4": content, "after.mp4": b"."})
    member = archives.find(archive / "long.mp4")
    assert member is not None
    for file in (member.open(), member.open()):
        assert file.read(0) == b""
        for _ in range(100):
            start = NOISE.randrange(len(content))
            assert file.seek(start) == start
            assert file.read(70_000) == content[start : start + 70_000]
            assert file.tell() == min(start + 70_000, len(content))
        assert file.seek(-5, io.SEEK_END) == len(content) - 5
        assert file.read() == content[-5:]
        assert file.read(1) == b""


def test_reading_a_large_packed_member_through_unpacks_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avfuse.features.archives.members.WHOLE_BYTES", 0)
    archive = pack(tmp_path / PACKED, {"before.mp4": NOISE.randbytes(333), "long.mp4": NOISE.randbytes(1_000_000)})
    member = archives.find(archive / "long.mp4")
    assert member is not None
    reads: list[tuple[int, int]] = []
    read = archives.ArchiveIndex.read

    def record(self: archives.ArchiveIndex, start: int, count: int) -> bytes:
        reads.append((start, count))
        return read(self, start, count)

    monkeypatch.setattr(archives.ArchiveIndex, "read", record)
    file = member.open()
    while file.read(10_000):
        pass
    points = archives.index(archive)._contents.points
    assert points is not None
    assert len(reads) > 5
    assert sum(count for _, count in reads) == 1_000_000
    assert {start for start, _ in reads[1:]} <= set(points.content.tolist())  # each goes on at a seek point


@pytest.mark.parametrize("name", BOTH)
def test_progress_rises_to_the_size_of_the_archive(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    for _ in range(2):
        progress: list[int] = []
        archives.list_members(archive, progress.append)
        assert progress == sorted(progress)
        assert progress[-1] == archive.stat().st_size
        forget_indices()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
@pytest.mark.parametrize("name", BOTH)
def test_no_file_stays_open(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    archives.index(archive)
    before = len(os.listdir("/proc/self/fd"))
    members = [archives.find(archive / name) for name in FILES]
    for member in members:
        assert member is not None
        member.read()
        member.open()
    assert len(os.listdir("/proc/self/fd")) == before


def test_gzip_streams_may_follow_each_other(tmp_path: Path) -> None:
    tar = pack(tmp_path / PLAIN, FILES).read_bytes()
    archive = tmp_path / PACKED
    archive.write_bytes(b"".join(gzip.compress(tar[at : at + 7000]) for at in range(0, len(tar), 7000)))
    assert archives.index(archive).problem is None
    for name, content in FILES.items():
        assert content_of(archive, name) == content


def test_what_an_archive_is_its_bytes_say(tmp_path: Path) -> None:
    plain, packed = pack(tmp_path / PLAIN, FILES), pack(tmp_path / PACKED, FILES)
    plain.rename(tmp_path / "a.tgz")
    packed.rename(tmp_path / "b.tar")
    for name in ("a.tgz", "b.tar"):
        assert content_of(tmp_path / name, "video/3.mp4") == FILES["video/3.mp4"]


def test_an_archive_may_hold_nothing(tmp_path: Path) -> None:
    for name in BOTH:
        archive = pack(tmp_path / name, {})
        assert archives.list_members(archive) == {}
        assert archives.index(archive).problem is None
