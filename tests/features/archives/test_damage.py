"""Archives that are cut short, damaged, or not archives at all."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archived import FILES, NOISE, content_of
from packing import PACKED, PLAIN, pack

from avfuse.features import archives
from avfuse.features.errors import ClipError, UsageError


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
    offset = header_at(archive, "video/20.mp4")
    content = bytearray(archive.read_bytes())
    content[offset + 10] ^= 0xFF
    archive.write_bytes(content)
    index = archives.index(archive)
    assert list(index.entries) == list(FILES)[:20]
    assert index.problem == f"it is damaged at byte {offset}: what follows cannot be found"


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
    start = int(damage_at * len(content))
    content[start : start + 300] = NOISE.randbytes(300)
    archive.write_bytes(content)
    index = archives.index(archive)
    assert index.problem is not None
    assert "damaged" in index.problem
    assert 40 * damage_at - 2 < len(index.entries) < 40
    for name in list(index.entries)[:-2]:
        assert content_of(archive, name) == text[name]
    for name in list(index.entries)[-2:]:
        assert len(content_of(archive, name)) == len(text[name])


def test_a_wrong_checksum_is_reported(tmp_path: Path) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    content = bytearray(archive.read_bytes())
    content[-8] ^= 0xFF
    archive.write_bytes(content)
    index = archives.index(archive)
    assert index.problem == "some of it is damaged: its checksum is wrong"
    for name, original in FILES.items():
        assert content_of(archive, name) == original


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
def test_an_unsupported_archive_is_one_line(
    tmp_path: Path, name: str, write: Callable[[Path], None], reason: str, builds: list[int]
) -> None:
    write(tmp_path / name)
    for _ in range(2):
        with pytest.raises(UsageError, match=reason):
            archives.index(tmp_path / name)
        with pytest.raises(ClipError, match=reason) as caught:
            archives.find(tmp_path / name / "video/a.mp4")
        assert "\n" not in str(caught.value)
    assert len(builds) == 1  # and it is not read again to say so
    assert archives.folder(tmp_path / name / "video") is None


def test_a_missing_archive_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.tar cannot be read \(No such file"):
        archives.index(tmp_path / "none.tar")
    with pytest.raises(UsageError, match="is no archive file"):
        archives.index(tmp_path)
    assert archives.find(tmp_path / "none.tar" / "a.mp4") is None


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
    offset = header_at(archive, "video/20.mp4")
    archive.write_bytes(content[:offset] + header + content[offset:])
    index = archives.index(archive)
    assert list(index.entries) == list(FILES)[:20]
    assert index.problem is not None
