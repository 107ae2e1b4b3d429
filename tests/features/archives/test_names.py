"""Names of archives and of their members."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from archived import content_of, forget_indices
from packing import BOTH, PLAIN, pack

from avfuse.features import archives
from avfuse.features.errors import ClipError

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
        forget_indices()
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


def test_a_folder_called_as_an_archive_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x.tar" / "y.tgz"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"content")
    assert archives.find(folder / "a.mp4") is None
    archive = pack(folder / PLAIN, {"b.tar/b.mp4": b"inside"})
    assert content_of(archive, "b.tar/b.mp4") == b"inside"


def test_archives_are_told_by_their_names() -> None:
    for name in ("a.tar", "a.tar.gz", "A.TGZ", "a.tar.zst", "a.tbz2"):
        assert archives.is_archive(Path("folder") / name)
    for name in ("a.gz", "a.tar.md5", "tar", "a.mp4", "a.tar/b.mp4"):
        assert not archives.is_archive(Path("folder") / name)
