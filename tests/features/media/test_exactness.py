"""Every frame and every sample is the right one, in every file: against a plain sequential decode, by the rule."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_zoo import READABLE, encode, pictures
from plain_decode import Plain, click_seconds, expected, plain_sound

from avfuse.features.errors import ClipError
from avfuse.features.media import MediaFile, decode

FRAME = 1 / 25


SCHEMES = ["uniform:7", "uniform:25", "uniform:3@2/4", "strided:5x3", "strided:4x2@3/3", "strided:16x40", "rate:10"]


def assert_is_a_plain_decode(
    path: Path, schemes: list[str], start: str | None = None, end: str | None = None, plain: Plain | None = None
) -> None:
    plain = plain or Plain(path)
    first = Fraction(start or 0)
    last = Fraction(end) if end else plain.end
    with MediaFile(path) as file:
        media = file.read(schemes, audio=False, start=first if start else None, end=last if end else None)
    assert media.frames_error is None
    ranks_by_scheme = {scheme: expected(plain, scheme, first, last) for scheme in schemes}
    pixels = plain.pixels({rank for ranks in ranks_by_scheme.values() for rank in ranks})
    for scheme, ranks in ranks_by_scheme.items():
        frames = media.by_scheme[scheme]
        assert frames.available == len(plain.inside(first, last))
        assert (frames.indices + plain.inside(first, last)[0]).tolist() == ranks, scheme
        assert frames.times.tolist() == [float(plain.times[rank]) for rank in ranks], scheme
        assert frames.time_source == ("timestamps" if plain.is_increasing else "index")
        difference = np.abs(frames.pixels.astype(int) - [pixels[rank] for rank in ranks])
        assert difference.mean(axis=(1, 2, 3)).max() < 1, scheme


@pytest.mark.parametrize("name", READABLE)
def test_every_scheme_takes_the_frames_of_a_plain_decode(zoo: Path, name: str) -> None:
    assert_is_a_plain_decode(zoo / name, SCHEMES)


@pytest.mark.parametrize("name", READABLE)
def test_so_it_does_between_two_times(zoo: Path, name: str) -> None:
    assert_is_a_plain_decode(zoo / name, SCHEMES, "0.4", "1.32")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_alone_gives_what_it_gives_beside_others(zoo: Path, scheme: str) -> None:
    with MediaFile(zoo / "b_frames.mp4") as file:
        together = file.read(SCHEMES, audio=False).by_scheme[scheme]
    alone = decode(zoo / "b_frames.mp4", scheme, audio=False).frames
    assert alone is not None
    np.testing.assert_array_equal(alone.pixels, together.pixels)
    np.testing.assert_array_equal(alone.times, together.times)


def test_one_open_file_gives_its_clips_in_any_order(zoo: Path) -> None:
    clips = [("0.4", "1.2"), (None, None), ("1.2", None), ("0.4", "1.2")]
    clips_ = [(Fraction(a) if a else None, Fraction(b) if b else None) for a, b in clips]
    with MediaFile(zoo / "packed.avi") as file:
        shared = [file.read(["uniform:5"], start=start, end=end) for start, end in clips_]
    for (start, end), media in zip(clips_, shared, strict=True):
        alone = decode(zoo / "packed.avi", "uniform:5", start=start, end=end)
        assert alone.frames is not None
        assert media.frames is not None
        assert alone.waveform is not None
        assert media.waveform is not None
        np.testing.assert_array_equal(media.frames.pixels, alone.frames.pixels)
        np.testing.assert_array_equal(media.waveform.samples, alone.waveform.samples)


@pytest.mark.parametrize("name", READABLE)
def test_flash_and_click_stay_together(zoo: Path, name: str) -> None:
    media = decode(zoo / name, "uniform:200")
    assert media.frames is not None
    assert media.waveform is not None
    flash = media.frames.times[media.frames.pixels.reshape(200, -1).mean(axis=1).argmax()]
    assert abs(click_seconds(media.waveform.samples, media.waveform.rate_hz) - flash) <= FRAME


@pytest.mark.parametrize("name", READABLE)
def test_sound_lies_where_a_plain_decode_has_it(zoo: Path, name: str) -> None:
    assert_sound_is_a_plain_decode(zoo / name)


def assert_sound_is_a_plain_decode(path: Path, plain: Plain | None = None) -> None:
    """The samples of a plain decode, from the first displayed frame on, shifted by 5 ms at most."""
    waveform = decode(path, frames=None).waveform
    assert waveform is not None
    samples, rate_hz, start = plain_sound(path)
    assert waveform.rate_hz == rate_hz
    first = round(((plain or Plain(path)).origin - start) * rate_hz)
    whole = np.concatenate([np.zeros(max(-first, 0)), samples[max(first, 0) :]])
    length = min(len(whole), len(waveform.samples))
    assert length >= 0.9 * min(len(whole), 2 * rate_hz)
    furthest = round(0.005 * rate_hz)
    ours = waveform.samples[furthest : length - furthest].astype(np.float64)
    lags = sorted(range(-furthest, furthest + 1), key=abs)
    assert any(np.abs(ours - whole[furthest + lag : length - furthest + lag]).mean() < 1e-4 for lag in lags)


def test_frames_alone_sound_alone_and_both_agree(zoo: Path) -> None:
    for name in READABLE:
        both = decode(zoo / name, "uniform:4").waveform
        alone = decode(zoo / name, None).waveform
        assert both is not None
        assert alone is not None
        np.testing.assert_array_equal(both.samples, alone.samples)


@pytest.mark.parametrize("name", ["edit_list.mp4", "packed.avi", "h264.ts", "surround.mkv"])
def test_a_file_too_large_to_hold_is_read_anew(zoo: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = decode(zoo / name, "uniform:5")
    monkeypatch.setattr("avfuse.features.media.container.MAX_BUFFERED_BYTES", 0)
    monkeypatch.setattr("avfuse.features.media.container.MediaSource._buffered_packets", None)
    read = decode(zoo / name, "uniform:5")
    assert held.frames is not None
    assert read.frames is not None
    assert held.waveform is not None
    assert read.waveform is not None
    np.testing.assert_array_equal(held.frames.pixels, read.frames.pixels)
    np.testing.assert_array_equal(held.waveform.samples, read.waveform.samples)


def test_a_picture_that_changes_its_size_is_no_array(zoo: Path, tmp_path: Path) -> None:
    whole = {"video_codec": "mpeg2video", "audio_codec": "mp2"}
    small = encode(tmp_path / "small.ts", pictures(20), None, **whole)
    large = encode(tmp_path / "large.ts", pictures(20, height=96, width=128), None, **whole)
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames = decode(both, "uniform:8").frames
    assert frames is not None
    assert {pixels.shape for pixels in frames.distinct.values()} == {(48, 64, 3), (96, 128, 3)}
    with pytest.raises(ClipError, match=r"size changes within the clip \(128x96, 64x48\)"):
        _ = frames.pixels


def test_the_real_clips_are_a_plain_decode(real_data: Path) -> None:
    for path in sorted((real_data / "clips").iterdir()):
        if path.name == "corrupted.mp4":
            continue
        plain = Plain(path)
        assert_is_a_plain_decode(path, ["uniform:25", "strided:8x32", "rate:2"], plain=plain)
        if decode(path, None).has_audio:
            assert_sound_is_a_plain_decode(path, plain)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_the_real_clips_of_vggsound_are_a_plain_decode(real_data: Path, part: int) -> None:
    for path in sorted((real_data / "vggsound-clips").glob("*.mp4"))[part::8]:
        plain = Plain(path)
        assert_is_a_plain_decode(path, ["uniform:25", "strided:8x32", "uniform:8@2/4"], plain=plain)
        assert_sound_is_a_plain_decode(path, plain)
