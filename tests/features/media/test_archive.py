"""A clip in an archive gives what the file itself gives, to the bit."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media_zoo import READABLE, click, encode, pictures
from packing import BOTH, PLAIN, pack

from avfuse.features import archives
from avfuse.features.archives import indexing, seek_points
from avfuse.features.errors import ClipError
from avfuse.features.inputs.prepare import SharedFile
from avfuse.features.media import Media, MediaFile, decode, probe
from avfuse.features.media.container import MediaSource
from avfuse.features.media.seeking import find_packet_span
from avfuse.features.media.timeline import TimeInterval

BROKEN = ("half.avi", "most.avi", "text.mp4", "empty.mp4", "one_frame.mp4", "sound_only.m4a")


@pytest.fixture(scope="module")
def packed(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of the zoo in two archives, with seek points close together."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seek_points, "SPACING", 100_000)
        for name in BOTH:
            pack(folder / name, {f"./video/{path.name}": path for path in sorted(zoo.iterdir())})
            archives.index(folder / name)
    return folder


@pytest.fixture(params=["whole", "in chunks"])
def _member_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members as they are read when they are small, and when they are large."""
    if request.param == "in chunks":
        monkeypatch.setattr("avfuse.features.archives.members.WHOLE_BYTES", 0)
        monkeypatch.setattr(indexing, "_PLAIN_CHUNK", 50_000)
        monkeypatch.setattr(seek_points, "SPACING", 100_000)


def assert_equal(actual: Media, expected: Media) -> None:
    assert actual.sound == expected.sound
    assert actual.notes == expected.notes
    assert (actual.reader, actual.start) == (expected.reader, expected.start)
    assert str(actual.frames_error) == str(expected.frames_error)
    assert str(actual.waveform_error) == str(expected.waveform_error)
    assert actual.by_scheme.keys() == expected.by_scheme.keys()
    for scheme, frames in actual.by_scheme.items():
        reference = expected.by_scheme[scheme]
        np.testing.assert_array_equal(frames.times, reference.times)
        for index, pixels in reference.distinct.items():
            np.testing.assert_array_equal(frames.distinct[index], pixels)
    if expected.waveform is not None:
        assert actual.waveform is not None
        assert actual.waveform.rate_hz == expected.waveform.rate_hz
        np.testing.assert_array_equal(actual.waveform.samples, expected.waveform.samples)


def outcome(path: Path) -> Media | str:
    try:
        return decode(path)
    except ClipError as error:
        return str(error)


@pytest.mark.usefixtures("_member_size")
@pytest.mark.parametrize("archive", BOTH)
@pytest.mark.parametrize("name", READABLE)
def test_frames_and_sound_are_those_of_the_file(zoo: Path, packed: Path, archive: str, name: str) -> None:
    member = packed / archive / "video" / name
    assert_equal(decode(member), decode(zoo / name))
    assert_equal(decode(member, start=0.5, end=1.3), decode(zoo / name, start=0.5, end=1.3))
    assert probe(member) == probe(zoo / name)


@pytest.mark.parametrize("archive", BOTH)
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_file_is_wrong_with_the_member(zoo: Path, packed: Path, archive: str, name: str) -> None:
    expected, actual = outcome(zoo / name), outcome(packed / archive / "video" / name)
    if isinstance(expected, Media):
        assert isinstance(actual, Media)
        assert_equal(actual, expected)
    else:
        assert actual == expected


@pytest.mark.parametrize("archive", BOTH)
@pytest.mark.parametrize("name", ["plain.mp4", "b_frames.mkv", "plain.avi", "packed.avi"])
def test_decord_reads_members_as_well(zoo: Path, packed: Path, archive: str, name: str) -> None:
    pytest.importorskip("decord")
    assert_equal(decode(packed / archive / "video" / name, reader="decord"), decode(zoo / name, reader="decord"))


@pytest.mark.slow
@pytest.mark.usefixtures("_member_size")
@pytest.mark.parametrize("archive", BOTH)
def test_clips_deep_in_a_member_are_reached_by_seeking(
    tmp_path: Path, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seek_points, "SPACING", 100_000)
    options = {"bf": "3", "g": "120", "preset": "veryfast", "threads": "1"}
    path = encode(tmp_path / "long.mp4", pictures(70 * 25, flash=1500), click(70, at=60), options=options)
    member = pack(tmp_path / archive, {"a.mp4": b"1", "long.mp4": path}) / "long.mp4"
    with MediaSource(member) as source:
        assert find_packet_span(source, TimeInterval.of(50, 52)) is not None
    with MediaFile(path) as plain, MediaFile(member) as inside:
        for start, end in [(50.3, 53.1), (59.2, 61), (0, 2), (68.2, None), (30, 32.5)]:
            expected = plain.read(["uniform:5", "strided:4x3"], start=start, end=end)
            assert_equal(inside.read(["uniform:5", "strided:4x3"], start=start, end=end), expected)


def test_a_member_that_is_not_there_is_named(packed: Path, zoo: Path) -> None:
    for archive in BOTH:
        for attempt in (decode, probe):
            with pytest.raises(ClipError, match=f"'video/none.mp4' is not there in .*{archive}") as caught:
                attempt(packed / archive / "video" / "none.mp4")
            assert caught.value.stage == "open"
        with pytest.raises(ClipError, match="'video' is not there"):
            decode(packed / archive / "video")
    with pytest.raises(ClipError, match="open: file not found"):
        decode(packed / "gone.tar.gz" / "a.mp4")
    with pytest.raises(ClipError, match="open: file not found"):
        decode(zoo / "plain.mp4" / "a.mp4")


@pytest.mark.usefixtures("_member_size")
@pytest.mark.parametrize("archive", BOTH)
@pytest.mark.parametrize("good_reads", [0, 1, 3])
def test_a_member_that_cannot_be_read_costs_the_clip(
    tmp_path: Path, zoo: Path, archive: str, good_reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = pack(tmp_path / archive, {"a.mp4": zoo / "plain.mp4"}) / "a.mp4"
    read, count = archives.ArchiveIndex.read, [0]

    def failing(self: archives.ArchiveIndex, start: int, size: int) -> bytes:
        count[0] += 1
        if count[0] > good_reads:
            raise OSError(5, "Input/output error")
        return read(self, start, size)

    monkeypatch.setattr(archives.ArchiveIndex, "read", failing)
    actual = outcome(member)
    if isinstance(actual, Media):
        assert count[0] <= good_reads
        assert_equal(actual, decode(zoo / "plain.mp4"))
    else:
        assert "'a.mp4' in " in actual
        assert "cannot be read (Input/output error)" in actual


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """A port that answers, and what it was requests for."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port, requests
        running.shutdown()


@pytest.mark.usefixtures("_member_size")
@pytest.mark.parametrize("archive", BOTH)
def test_a_member_leads_nowhere_else(tmp_path: Path, zoo: Path, archive: str, server: tuple[int, list[str]]) -> None:
    port, requests = server
    play = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.0,\n{}\n#EXT-X-ENDLIST\n"
    files = {
        "web.m3u8": play.format(f"http://127.0.0.1:{port}/a.ts").encode(),
        "file.m3u8": play.format(zoo / "h264.ts").encode(),
        "list.mp4": f"ffconcat version 1.0\nfile '{zoo / 'plain.mp4'}'\n".encode(),
    }
    path = pack(tmp_path / archive, files)
    for name in files:
        with pytest.raises(ClipError, match="not a readable media file"):
            decode(path / name)
    assert requests == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
@pytest.mark.usefixtures("_member_size")
@pytest.mark.parametrize("archive", BOTH)
def test_reading_leaves_no_file_open(packed: Path, archive: str) -> None:
    decode(packed / archive / "video" / "plain.mp4")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("plain.mp4", "plain.avi", "text.mp4", "empty.mp4", "none.mp4"):
        for _ in range(2):
            try:
                decode(packed / archive / "video" / name)
            except ClipError:
                continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_called_as_an_archive_holds_files(tmp_path: Path, zoo: Path) -> None:
    folder = tmp_path / "x.tar"
    folder.mkdir()
    (folder / "a.mp4").symlink_to(zoo / "plain.mp4")
    assert_equal(decode(folder / "a.mp4"), decode(zoo / "plain.mp4"))


def test_a_file_outside_of_archives_is_not_looked_for_in_one(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} is a file")

    monkeypatch.setattr(archives, "find", refuse)
    decode(zoo / "plain.mp4")


def test_an_open_file_is_not_that_of_an_archive_that_was_replaced(tmp_path: Path, zoo: Path) -> None:
    shared = SharedFile()
    archive = pack(tmp_path / PLAIN, {"a.mp4": zoo / "plain.mp4"})
    first = shared.open(archive / "a.mp4", "pyav")
    assert shared.open(archive / "a.mp4", "pyav") is first
    pack(archive, {"a.mp4": zoo / "b_frames.mp4"})
    second = shared.open(archive / "a.mp4", "pyav")
    assert_equal(second.read(["uniform:5"]), decode(zoo / "b_frames.mp4", "uniform:5"))
    shared.close()
