"""The index of an archive is built once for all processes, and rebuilt when it is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from archived import FILES, content_of, forget_indices
from packing import BOTH, PACKED, PLAIN, pack

from avfuse.features import archives
from avfuse.features.archives import index_store, indexing
from avfuse.features.errors import ClipError, UsageError


def test_the_index_is_built_once_for_all_processes(tmp_path: Path, builds: list[int]) -> None:
    for name in BOTH:
        archive = pack(tmp_path / name, FILES)
        archives.index(archive)
        archives.index(str(archive))
        forget_indices()
        assert content_of(archive, "video/7.mp4") == FILES["video/7.mp4"]
    assert len(builds) == 2


AT_ONCE = """
import sys, time
from avfuse.features.archives import index, indexing
build, builds = indexing._build, []
def slow(*arguments):
    builds.append(1)
    time.sleep(1)
    return build(*arguments)
indexing._build = slow
assert len(index(sys.argv[1]).entries) == 40
print(len(builds))
"""


def test_of_two_processes_at_once_one_reads_the_archive(tmp_path: Path, index_folder: Path) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    command = [sys.executable, "-c", AT_ONCE, str(archive)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sum(int(process.communicate()[0]) for process in processes) == 1
    assert [path.suffix for path in index_folder.iterdir()] == [".index"]


def test_without_locks_it_works_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(indexing.FileLock, "acquire", refuse)
    archive = pack(tmp_path / PACKED, FILES)
    assert content_of(archive, "video/7.mp4") == FILES["video/7.mp4"]
    assert archives.index(archive).unsaved_reason is None


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("where", [0.0, 0.002, 0.02, 0.3, 0.6, 0.75], ids=str)
def test_a_damaged_index_is_rebuilt(
    tmp_path: Path, index_folder: Path, builds: list[int], name: str, where: float
) -> None:
    archive = pack(tmp_path / name, FILES)
    archives.index(archive)
    forget_indices()
    (index,) = index_folder.iterdir()
    damaged = bytearray(index.read_bytes())
    damaged[int(where * len(damaged))] ^= 0x55
    index.write_bytes(damaged)
    for _ in range(2):
        for member, content in FILES.items():
            assert content_of(archive, member) == content
        assert len(builds) == 2
        forget_indices()


@pytest.mark.parametrize("length", [0, 10, 100, 5000, -1])
def test_an_index_that_was_cut_short_is_rebuilt(
    tmp_path: Path, index_folder: Path, builds: list[int], length: int
) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    archives.index(archive)
    forget_indices()
    (index,) = index_folder.iterdir()
    index.write_bytes(index.read_bytes()[:length])
    assert content_of(archive, "video/39.mp4") == FILES["video/39.mp4"]
    assert len(builds) == 2


def test_an_index_may_go_while_it_is_used(tmp_path: Path, index_folder: Path) -> None:
    archive = pack(tmp_path / PACKED, FILES)
    archives.index(archive)
    for path in index_folder.iterdir():
        path.unlink()
    assert content_of(archive, "video/39.mp4") == FILES["video/39.mp4"]


@pytest.mark.parametrize("name", BOTH)
def test_without_a_place_for_the_index_it_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: list[int], name: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AVFUSE_ARCHIVES", str(tmp_path / "file"))
    archive = pack(tmp_path / name, FILES)
    for member, content in FILES.items():
        assert content_of(archive, member) == content
    assert "AVFUSE_ARCHIVES" in (archives.index(archive).unsaved_reason or "")
    with pytest.warns(FutureWarning, match="'unkept' is 'unsaved_reason' now"):
        assert archives.index(archive).unkept == archives.index(archive).unsaved_reason
    assert len(builds) == 1


def test_indices_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert index_store.archives_folder() == tmp_path / "indices"
    monkeypatch.delenv("AVFUSE_ARCHIVES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert index_store.archives_folder() == tmp_path / "avfuse" / "archives"


@pytest.mark.parametrize("name", BOTH)
def test_a_replaced_archive_is_read_anew(tmp_path: Path, index_folder: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    before = archives.find(archive / "video/1.mp4")
    assert before is not None
    changed = {key: bytes(len(content)) for key, content in FILES.items()}
    pack(tmp_path / f"new-{name}", changed).replace(archive)
    with pytest.raises(ClipError, match="replaced while it was read"):
        before.read()
    assert content_of(archive, "video/1.mp4") == bytes(20_007)
    assert len(list(index_folder.glob("*.index"))) == 1  # that of the archive as it was is gone


def test_an_archive_that_is_still_written_is_not_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / PLAIN, FILES)
    build = indexing._build

    def meanwhile(*arguments: object) -> object:
        contents = build(*arguments)  # type: ignore[arg-type]
        with archive.open("ab") as file:
            file.write(b"more")
        return contents

    monkeypatch.setattr(indexing, "_build", meanwhile)
    with pytest.raises(UsageError, match="changed while it was read: wait"):
        archives.index(archive)


def test_unindexed_lists_archives_without_an_index(tmp_path: Path) -> None:
    sizes = {str(pack(tmp_path / name, FILES)): (tmp_path / name).stat().st_size for name in BOTH}
    paths = [tmp_path / name / member for name in BOTH for member in FILES]
    paths += [tmp_path / "plain.mp4", tmp_path / "none.tar" / "a.mp4", tmp_path / "none" / "a.mp4", Path("a.mp4")]
    assert archives.unindexed(paths) == sizes
    archives.index(tmp_path / PLAIN)
    assert list(archives.unindexed(paths)) == [str(tmp_path / PACKED)]
    archives.index(tmp_path / PACKED)
    forget_indices()
    assert archives.unindexed(paths) == {}
