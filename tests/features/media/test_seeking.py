"""Clips deep in a long file: the same frames and samples as from its start, without reading what lies before."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_zoo import click, encode, pictures
from plain_decode import Plain, click_seconds, expected

from avfuse.features.errors import ClipError
from avfuse.features.media import MediaFile
from avfuse.features.media.container import MediaSource

pytestmark = pytest.mark.slow  # what is long is made first

SECONDS, CLICK_AT = 100, 83.4
FILES = {
    "closed.mp4": {"options": {"bf": "3", "g": "120", "preset": "veryfast", "threads": "1"}},
    "open.mkv": {
        "options": {"bf": "3", "g": "120", "x264-params": "open-gop=1", "preset": "veryfast", "threads": "1"},
        "audio_codec": "libopus",
        "rate_hz": 48000,
    },
    "hevc.mp4": {
        "video_codec": "libx265",
        "options": {"x265-params": "log-level=none:pools=1:open-gop=1:keyint=120", "preset": "ultrafast"},
    },
}
INTERVALS = [("71.3", "73.9"), ("82.6", "84.2"), ("0", "1.5"), ("98.2", None), ("98.9", "140"), ("64.0", "64.04")]


@pytest.fixture(scope="module")
def long_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    frames = pictures(SECONDS * 25, flash=round(CLICK_AT * 25))
    for name, how in FILES.items():
        sound = click(SECONDS, at=CLICK_AT, rate_hz=how.get("rate_hz", 44100))
        encode(folder / name, frames, sound, **how)
    return folder


@pytest.fixture
def no_reading_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MediaSource) -> None:
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(MediaSource, "expected_frames", property(refuse))
    monkeypatch.setattr(MediaSource, "_buffered_packets", property(refuse))


@pytest.mark.usefixtures("no_reading_from_the_start")
@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_a_plain_decode(long_files: Path, name: str) -> None:
    plain = Plain(long_files / name)
    schemes = ["uniform:5", "strided:4x3", "rate:10"]
    chosen = []
    with MediaFile(long_files / name) as file:
        for start, end in INTERVALS:
            first, last = Fraction(start), min(Fraction(end or SECONDS), plain.end)
            media = file.read(schemes, start=first, end=Fraction(end) if end else None)
            inside = plain.inside(first, last)
            for scheme in schemes:
                frames = media.by_scheme[scheme]
                ranks = expected(plain, scheme, first, last)
                assert frames.available == len(inside)
                assert (frames.indices + inside[0]).tolist() == ranks
                assert frames.times.tolist() == [float(plain.times[rank]) for rank in ranks]
                chosen.append((frames.pixels, ranks))
    pixels_by_rank = plain.pixels({rank for _, ranks in chosen for rank in ranks})
    for pixels, ranks in chosen:
        np.testing.assert_array_equal(pixels, [pixels_by_rank[rank] for rank in ranks])


@pytest.mark.parametrize("name", FILES)
def test_sound_is_that_of_the_whole_file(long_files: Path, name: str, request: pytest.FixtureRequest) -> None:
    with MediaFile(long_files / name) as file:
        whole = file.read([]).waveform
    assert whole is not None
    request.getfixturevalue("no_reading_from_the_start")
    with MediaFile(long_files / name) as file:
        for start, end in INTERVALS:
            part = file.read([], start=Fraction(start), end=Fraction(end) if end else None).waveform
            assert part is not None
            first = round(Fraction(start) * whole.rate_hz)
            assert part.duration_seconds == pytest.approx(min(float(end or SECONDS), SECONDS) - float(start), abs=2e-3)
            same = whole.samples[first : first + len(part.samples)]
            length = min(len(same), len(part.samples))
            # Matroska rounds timestamps to milliseconds, and AAC draws its noise anew.
            furthest = whole.rate_hz // 1000 if name.endswith(".mkv") else 0
            assert lag_between(part.samples[:length], same[:length], furthest) <= furthest


def lag_between(ours: np.ndarray, theirs: np.ndarray, furthest: int) -> int:
    """By how many samples two signals are apart; more than `furthest` if they are not the same."""
    middle = slice(furthest, len(ours) - furthest)
    for lag in sorted(range(-furthest, furthest + 1), key=abs):
        apart = np.abs(ours[middle] - np.roll(theirs, lag)[middle])
        if apart.mean() < 1e-3:
            return abs(lag)
    return furthest + 1


def test_a_clip_does_not_depend_on_those_read_before_it(long_files: Path) -> None:
    with MediaFile(long_files / "closed.mp4") as file:
        first = file.read(["uniform:3"], start=71.3, end=73.9)
        file.read(["uniform:3"], start=82.6, end=84.2)
        again = file.read(["uniform:3"], start=71.3, end=73.9)
    assert first.frames is not None
    assert again.frames is not None
    assert first.waveform is not None
    assert again.waveform is not None
    np.testing.assert_array_equal(first.frames.pixels, again.frames.pixels)
    np.testing.assert_array_equal(first.waveform.samples, again.waveform.samples)


@pytest.mark.usefixtures("no_reading_from_the_start")
@pytest.mark.parametrize("name", FILES)
def test_flash_and_click_stay_together(long_files: Path, name: str) -> None:
    with MediaFile(long_files / name) as file:
        media = file.read(["uniform:40"], start=82.6, end=84.2)
    assert media.frames is not None
    assert media.waveform is not None
    flash = media.frames.times[media.frames.pixels.reshape(40, -1).mean(axis=1).argmax()]
    assert abs(82.6 + click_seconds(media.waveform.samples, media.waveform.rate_hz) - flash) <= 0.04


@pytest.mark.usefixtures("no_reading_from_the_start")
def test_a_clip_after_the_end_is_named(long_files: Path) -> None:
    with MediaFile(long_files / "closed.mp4") as file, pytest.raises(ClipError, match=r"the file ends at 100\.00 s"):
        file.read(["uniform:5"], start=100, end=103)


def test_where_seeking_shows_other_frames_the_file_is_read_from_its_start(
    long_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MediaFile(long_files / "closed.mp4") as file:
        sought = file.read(["uniform:5"], start=71.3, end=73.9)
    monkeypatch.setattr("avfuse.features.media.reader.MediaFile._decode_span", lambda *_: None)
    with MediaFile(long_files / "closed.mp4") as file:
        read = file.read(["uniform:5"], start=71.3, end=73.9)
    assert sought.frames is not None
    assert read.frames is not None
    assert sought.waveform is not None
    assert read.waveform is not None
    np.testing.assert_array_equal(sought.frames.pixels, read.frames.pixels)
    np.testing.assert_array_equal(sought.frames.times, read.frames.times)
    np.testing.assert_allclose(sought.waveform.samples, read.waveform.samples, atol=1e-5)
