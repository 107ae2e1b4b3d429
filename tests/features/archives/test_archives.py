"""Archives are read in place, whatever they are like; their index is made once, and never believed when it is wrong."""

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packing import BOTH, PACKED, PLAIN, pack

from avfuse.features import archives
from avfuse.features.archives import index_store, indexing, seek_points
from avfuse.features.errors import ClipError, UsageError

NOISE = random.Random(0)
FILES = {f"video/{number}.mp4": NOISE.randbytes(20_000 + 7 * number) for number in range(40)}
"""Content that gzip cannot make smaller, as videos are: 800 KB."""


@pytest.fixture(autouse=True)
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for indices, seek points close together, and nothing remembered."""
    monkeypatch.setenv("AVFUSE_ARCHIVES", str(tmp_path / "indices"))
    monkeypatch.setattr(seek_points, "SPACING", 100_000)
    monkeypatch.setattr(indexing, "_recent_indices", {})
    return tmp_path / "indices"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every archive that is read through."""
    count: list[int] = []
    make = indexing._build

    def counted(*arguments: object) -> object:
        count.append(1)
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "_build", counted)
    return count


def content_of(archive: Path, name: str) -> bytes:
    member = archives.find(archive / name)
    assert member is not None
    return member.read()


def forget() -> None:
    """As another process would begin."""
    indexing._recent_indices.clear()


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
    asked: list[tuple[int, int]] = []
    read = archives.ArchiveIndex.read

    def noted(self: archives.ArchiveIndex, start: int, count: int) -> bytes:
        asked.append((start, count))
        return read(self, start, count)

    monkeypatch.setattr(archives.ArchiveIndex, "read", noted)
    file = member.open()
    while file.read(10_000):
        pass
    points = archives.index(archive)._contents.points
    assert points is not None
    assert len(asked) > 5
    assert sum(count for _, count in asked) == 1_000_000
    assert {start for start, _ in asked[1:]} <= set(points.content.tolist())  # each goes on at a seek point


def test_the_index_is_made_once_for_all_processes(tmp_path: Path, made: list[int]) -> None:
    for name in BOTH:
        archive = pack(tmp_path / name, FILES)
        archives.index(archive)
        archives.index(str(archive))
        forget()
        assert content_of(archive, "video/7.mp4") == FILES["video/7.mp4"]
    assert len(made) == 2


AT_ONCE = """
import sys, time
from avfuse.features.archives import index, indexing
make, made = indexing._build, []
def slow(*arguments):
    made.append(1)
    time.sleep(1)
    return make(*arguments)
indexing._build = slow
assert len(index(sys.argv[1]).entries) == 40
print(len(made))
"""


def test_of_two_processes_at_once_one_reads_the_archive(tmp_path: Path, kept_in: Path) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    command = [sys.executable, "-c", AT_ONCE, str(archive)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sum(int(each.communicate()[0]) for each in running) == 1
    assert [path.suffix for path in kept_in.iterdir()] == [".index"]


def test_without_locks_it_works_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(indexing.FileLock, "acquire", refuse)
    archive = pack(tmp_path / PACKED, FILES)
    assert content_of(archive, "video/7.mp4") == FILES["video/7.mp4"]
    assert archives.index(archive).unsaved_reason is None


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("where", [0.0, 0.002, 0.02, 0.3, 0.6, 0.75], ids=str)
def test_a_damaged_index_is_made_again(tmp_path: Path, kept_in: Path, made: list[int], name: str, where: float) -> None:
    archive = pack(tmp_path / name, FILES)
    archives.index(archive)
    forget()
    (index,) = kept_in.iterdir()
    damaged = bytearray(index.read_bytes())
    damaged[int(where * len(damaged))] ^= 0x55
    index.write_bytes(damaged)
    for _ in range(2):
        for member, content in FILES.items():
            assert content_of(archive, member) == content
        assert len(made) == 2
        forget()


@pytest.mark.parametrize("length", [0, 10, 100, 5000, -1])
def test_an_index_that_was_cut_short_is_made_again(tmp_path: Path, kept_in: Path, made: list[int], length: int) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    archives.index(archive)
    forget()
    (index,) = kept_in.iterdir()
    index.write_bytes(index.read_bytes()[:length])
    assert content_of(archive, "video/39.mp4") == FILES["video/39.mp4"]
    assert len(made) == 2


def test_an_index_may_go_while_it_is_used(tmp_path: Path, kept_in: Path) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    archives.index(archive)
    for path in kept_in.iterdir():
        path.unlink()
    assert content_of(archive, "video/39.mp4") == FILES["video/39.mp4"]


@pytest.mark.parametrize("name", BOTH)
def test_without_a_place_for_the_index_it_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int], name: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AVFUSE_ARCHIVES", str(tmp_path / "file"))
    archive = pack(tmp_path / name, FILES)
    for member, content in FILES.items():
        assert content_of(archive, member) == content
    assert "AVFUSE_ARCHIVES" in (archives.index(archive).unsaved_reason or "")
    assert len(made) == 1


def test_indices_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert index_store.archives_folder() == tmp_path / "indices"
    monkeypatch.delenv("AVFUSE_ARCHIVES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert index_store.archives_folder() == tmp_path / "avfuse" / "archives"


@pytest.mark.parametrize("name", BOTH)
def test_a_replaced_archive_is_read_anew(tmp_path: Path, kept_in: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    before = archives.find(archive / "video/1.mp4")
    assert before is not None
    changed = {key: bytes(len(content)) for key, content in FILES.items()}
    pack(tmp_path / f"new-{name}", changed).replace(archive)
    with pytest.raises(ClipError, match="replaced while it was read"):
        before.read()
    assert content_of(archive, "video/1.mp4") == bytes(20_007)
    assert len(list(kept_in.glob("*.index"))) == 1  # that of the archive as it was is gone


def test_an_archive_that_is_still_written_is_not_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / PLAIN, FILES)
    make = indexing._build

    def meanwhile(*arguments: object) -> object:
        found = make(*arguments)  # type: ignore[arg-type]
        with archive.open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(indexing, "_build", meanwhile)
    with pytest.raises(UsageError, match="changed while it was read: wait"):
        archives.index(archive)


@pytest.mark.parametrize("name", BOTH)
def test_progress_rises_to_the_size_of_the_archive(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    for _ in range(2):
        seen: list[int] = []
        archives.list_members(archive, seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == archive.stat().st_size
        forget()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
@pytest.mark.parametrize("name", BOTH)
def test_no_file_stays_open(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    archives.index(archive)
    before = len(os.listdir("/proc/self/fd"))
    held = [archives.find(archive / member) for member in FILES]
    for member in held:
        assert member is not None
        member.read()
        member.open()
    assert len(os.listdir("/proc/self/fd")) == before


LONG = "/".join(["a" * 60] * 4) + ".mp4"


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("format", "member"),
    [
        (tarfile.USTAR_FORMAT, "a" * 90 + "/" + "b" * 90 + ".mp4"),
        (tarfile.GNU_FORMAT, LONG),
        (tarfile.PAX_FORMAT, LONG),
        (tarfile.PAX_FORMAT, "Zoë/日本語.mp4"),
        (tarfile.GNU_FORMAT, "Zoë/日本語.mp4"),
    ],
)
def test_every_kind_of_tar_is_read(tmp_path: Path, name: str, format: int, member: str) -> None:
    archive = pack(tmp_path / name, {"first.mp4": b"1", member: b"content", "last.mp4": b"3"}, format)
    assert list(archives.list_members(archive)) == ["first.mp4", member, "last.mp4"]
    assert content_of(archive, member) == b"content"


ODD = "a, b: %20 100% \\ 'x' \"y\" #?&;é\n.d"


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".TGZ", ".tgz"])
def test_names_may_be_odd(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    archive = pack(folder / f"{ODD}{ending}", {f"{ODD}/{ODD}.mp4": b"content", "-x.mp4": b"2", " .mp4": b"3"})
    assert content_of(archive, f"{ODD}/{ODD}.mp4") == b"content"
    assert content_of(archive, "-x.mp4") == b"2"
    assert content_of(archive, " .mp4") == b"3"


def test_names_need_not_be_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.mp4")
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    for archive in BOTH:
        packed = pack(folder / archive, {name: b"content"}, tarfile.GNU_FORMAT)
        assert content_of(packed, name) == b"content"
        forget()
        assert content_of(packed, name) == b"content"


def test_names_are_those_that_a_path_has(tmp_path: Path) -> None:
    files = {"./a.mp4": b"1", ".//video/./b.mp4": b"2", "/abs.mp4": b"3", "../up.mp4": b"4", "x/../../up.mp4": b"5"}
    archive = pack(tmp_path / PLAIN, files)
    assert archives.list_members(archive) == {"a.mp4": 1, "video/b.mp4": 1, "abs.mp4": 1}
    assert content_of(archive, "video/b.mp4") == b"2"
    with pytest.raises(ClipError, match="is not there"):
        archives.find(archive / "../up.mp4")


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    archive = tmp_path / PLAIN
    with tarfile.open(archive, "w") as tar:
        for content in (b"old", b"other", b"newer"):
            info = tarfile.TarInfo("other.mp4" if content == b"other" else "a.mp4")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert list(archives.list_members(archive)) == ["other.mp4", "a.mp4"]
    assert content_of(archive, "a.mp4") == b"newer"


def linked(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("odd.mp4")
    info.type, info.linkname = kind, "real.mp4"
    return info


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device or a pipe"),
    ],
)
def test_what_is_no_file_is_not_followed(tmp_path: Path, name: str, kind: bytes, what: str) -> None:
    archive = pack(tmp_path / name, {"real.mp4": b"content", "odd.mp4": linked(kind), "last.mp4": b"3"})
    assert list(archives.list_members(archive)) == ["real.mp4", "last.mp4"]
    with pytest.raises(ClipError, match=f"'odd.mp4' is {what}.*not followed in .*{name}"):
        archives.find(archive / "odd.mp4")


def test_sparse_files_are_not_read(tmp_path: Path) -> None:
    archive = tmp_path / PLAIN
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/odd.mp4")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "odd.mp4",
            "GNU.sparse.realsize": "1000000",
        }
        content = b"1\n0\n4\n".ljust(512, b"\0") + b"data"
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ClipError, match="is a sparse file, which is not followed"):
        archives.find(archive / "odd.mp4")


def header_at(archive: Path, name: str) -> int:
    with tarfile.open(archive) as tar:
        return tar.getmember(name).offset


CUTS: dict[str, Callable[[Path], int]] = {
    "in a file": lambda archive: header_at(archive, "video/20.mp4") + 5000,
    "in a header": lambda archive: header_at(archive, "video/20.mp4") + 100,
    "before a header": lambda archive: header_at(archive, "video/20.mp4"),
}


@pytest.mark.parametrize("where", CUTS)
def test_a_tar_that_was_cut_short_is_used_up_to_there(tmp_path: Path, where: str) -> None:
    archive = pack(tmp_path / PLAIN, FILES)
    archive.write_bytes(archive.read_bytes()[: CUTS[where](archive)])
    index = archives.index(archive)
    assert list(index.entries) == list(FILES)[:20]
    assert "cut short" in (index.problem or "")
    assert content_of(archive, "video/19.mp4") == FILES["video/19.mp4"]
    with pytest.raises(ClipError, match=r"'video/20.mp4' is not there in .*cut short"):
        archives.find(archive / "video/20.mp4")


def test_what_follows_damage_in_a_tar_is_absent(tmp_path: Path) -> None:
    archive = pack(tmp_path / PLAIN, FILES)
    place = header_at(archive, "video/20.mp4")
    content = bytearray(archive.read_bytes())
    content[place + 10] ^= 0xFF
    archive.write_bytes(content)
    index = archives.index(archive)
    assert list(index.entries) == list(FILES)[:20]
    assert index.problem == f"it is damaged at byte {place}: what follows cannot be found"


def test_a_packed_archive_that_was_cut_short_is_used_up_to_there(tmp_path: Path) -> None:
    whole = pack(tmp_path / PACKED, FILES).read_bytes()
    for length in (len(whole) // 2, 30_000):
        archive = tmp_path / f"{length}.tar.gz"
        archive.write_bytes(whole[:length])
        index = archives.index(archive)
        assert abs(len(index.entries) - 40 * length / len(whole)) < 2
        assert "cut short" in (index.problem or "")
        for name in index.entries:
            assert content_of(archive, name) == FILES[name]


def test_a_packed_archive_without_its_last_bytes_is_whole(tmp_path: Path) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    archive.write_bytes(archive.read_bytes()[:-4])
    assert list(archives.index(archive).entries) == list(FILES)
    assert archives.index(archive).problem is not None


@pytest.mark.parametrize("damage_at", [0.1, 0.6])
def test_a_damaged_packed_archive_is_used_up_to_there(tmp_path: Path, damage_at: float) -> None:
    text = {name: content.hex().encode() for name, content in FILES.items()}  # in text, damage is soon noticed
    archive = pack(tmp_path / PACKED, text)
    content = bytearray(archive.read_bytes())
    place = int(damage_at * len(content))
    content[place : place + 300] = NOISE.randbytes(300)
    archive.write_bytes(content)
    index = archives.index(archive)
    assert index.problem is not None
    assert "damaged" in index.problem
    assert 40 * damage_at - 2 < len(index.entries) < 40
    for name in list(index.entries)[:-2]:
        assert content_of(archive, name) == text[name]
    for name in list(index.entries)[-2:]:
        assert len(content_of(archive, name)) == len(text[name])


def test_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    content = bytearray(archive.read_bytes())
    content[-8] ^= 0xFF
    archive.write_bytes(content)
    index = archives.index(archive)
    assert index.problem == "some of it is damaged: its checksum is wrong"
    for name, held in FILES.items():
        assert content_of(archive, name) == held


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


def zstd(path: Path) -> None:
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(1000))


def packed_by(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, f"w:{kind}") as tar:  # type: ignore[call-overload]
            tar.addfile(tarfile.TarInfo("a.mp4"))

    return write


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("a.tar.bz2", packed_by("bz2"), "packed with bzip2 and cannot be read in place: unpack it, or pack it as"),
        ("a.tar.xz", packed_by("xz"), "packed with xz"),
        ("a.txz", packed_by("xz"), "packed with xz"),
        ("a.tar.zst", zstd, "packed with zstd"),
        ("a.tar", packed_by("xz"), "packed with xz"),
        ("a.tar", lambda path: path.write_bytes(NOISE.randbytes(5000)), "is no tar archive"),
        ("a.tar.gz", lambda path: path.write_bytes(gzip.compress(NOISE.randbytes(5000))), "is no tar archive"),
        ("a.tar.gz", lambda path: path.write_bytes(b"\x1f\x8b" + NOISE.randbytes(5000)), "is no tar archive"),
        ("a.tar.gz", lambda path: path.write_bytes(b"\x1f\x8b"), "is no tar archive"),
        ("a.tar", lambda path: path.touch(), "is empty"),
    ],
)
def test_what_is_no_archive_to_read_in_place_is_one_line(
    tmp_path: Path, name: str, write: Callable[[Path], None], reason: str, made: list[int]
) -> None:
    write(tmp_path / name)
    for _ in range(2):
        with pytest.raises(UsageError, match=reason):
            archives.index(tmp_path / name)
        with pytest.raises(ClipError, match=reason) as told:
            archives.find(tmp_path / name / "video/a.mp4")
        assert "\n" not in str(told.value)
    assert len(made) == 1  # and it is not read again to say so
    assert archives.folder(tmp_path / name / "video") is None


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.tar cannot be read \(No such file"):
        archives.index(tmp_path / "none.tar")
    with pytest.raises(UsageError, match="is no archive file"):
        archives.index(tmp_path)
    assert archives.find(tmp_path / "none.tar" / "a.mp4") is None


def test_an_archive_may_hold_nothing(tmp_path: Path) -> None:
    for name in BOTH:
        archive = pack(tmp_path / name, {})
        assert archives.list_members(archive) == {}
        assert archives.index(archive).problem is None


def test_a_folder_called_as_an_archive_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x.tar" / "y.tgz"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"content")
    assert archives.find(folder / "a.mp4") is None
    archive = pack(folder / PLAIN, {"b.tar/b.mp4": b"inside"})
    assert content_of(archive, "b.tar/b.mp4") == b"inside"


def test_archives_to_be_read_are_those_that_nobody_looked_into(tmp_path: Path) -> None:
    sizes = {str(pack(tmp_path / name, FILES)): (tmp_path / name).stat().st_size for name in BOTH}
    paths = [tmp_path / name / member for name in BOTH for member in FILES]
    paths += [tmp_path / "plain.mp4", tmp_path / "none.tar" / "a.mp4", tmp_path / "none" / "a.mp4", Path("a.mp4")]
    assert archives.unindexed(paths) == sizes
    archives.index(tmp_path / PLAIN)
    assert list(archives.unindexed(paths)) == [str(tmp_path / PACKED)]
    archives.index(tmp_path / PACKED)
    forget()
    assert archives.unindexed(paths) == {}


def test_archives_are_told_by_their_names() -> None:
    for name in ("a.tar", "a.tar.gz", "A.TGZ", "a.tar.zst", "a.tbz2"):
        assert archives.is_archive(Path("folder") / name)
    for name in ("a.gz", "a.tar.md5", "tar", "a.mp4", "a.tar/b.mp4"):
        assert not archives.is_archive(Path("folder") / name)


def bad_header(size_field: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims any size, with a right checksum."""
    info = tarfile.TarInfo("odd.mp4")
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = size_field
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    "header",
    [
        bad_header(b"\xff" * 4 + (2**64 - 512).to_bytes(8, "big")),  # minus 512: the header follows itself
        bad_header(b"\xff" * 4 + (2**64 - 4096).to_bytes(8, "big")),
        bad_header(b"77777777777\0"),
        bad_header(b"77777777777\0", tarfile.XHDTYPE),
        bad_header(b"\x80" + bytes(3) + (2**62).to_bytes(8, "big"), tarfile.GNUTYPE_LONGNAME),
    ],
)
def test_headers_that_are_traps_end_the_archive(tmp_path: Path, header: bytes) -> None:
    archive = pack(tmp_path / PLAIN, FILES)
    content = archive.read_bytes()
    place = header_at(archive, "video/20.mp4")
    archive.write_bytes(content[:place] + header + content[place:])
    index = archives.index(archive)
    assert list(index.entries) == list(FILES)[:20]
    assert index.problem is not None
