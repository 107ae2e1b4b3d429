"""Every frame and every sample is the right one, in every file: against a plain sequential decode, by the rule."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from features.media import MediaFile, decode

FRAME = 1 / 25
READABLE = [
    "plain.mp4",
    "b_frames.mp4",
    "b_frames.mkv",
    "plain.avi",
    "b_frames.avi",
    "packed.avi",
    "edit_list.mp4",
    "variable_rate.mp4",
    "variable_rate.mkv",
    "late_sound.mp4",
    "surround.mkv",
    "telephone.mkv",
    "rotated.mp4",
    "ten_bit.mp4",
    "full_colour.mp4",
    "gray.mkv",
    "long_sound.mp4",
    "centuries.mp4",
    "broadcast.ts",
    "h264.ts",
]


class Plain:
    """A file decoded from start to end, nothing else: exact times since the first frame, and where that lies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
            ticks = [frame.pts for frame in frames]
            self.rises = None not in ticks and all(a < b for a, b in pairwise(ticks))
            if self.rises:
                self.times = [(tick - ticks[0]) * stream.time_base for tick in ticks]
                last = frames[-1].duration * stream.time_base or 1 / stream.average_rate
            else:
                self.times = [rank / stream.average_rate for rank in range(len(ticks))]
                last = 1 / stream.average_rate
            is_avi = container.format.name == "avi"
            self.origin = Fraction(0) if is_avi else ticks[0] * stream.time_base
            self.end = self.times[-1] + last

    def pixels(self, ranks: set[int]) -> dict[int, np.ndarray]:
        with av.open(str(self._path)) as container:
            return {
                rank: np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                for rank, frame in enumerate(container.decode(video=0))
                if rank in ranks
            }

    def inside(self, start: Fraction, end: Fraction) -> list[int]:
        return [rank for rank, time in enumerate(self.times) if start <= time < end]

    def shown_at(self, time: Fraction) -> int:
        return max(rank for rank, start in enumerate(self.times) if start <= time)


def expected(plain: Plain, scheme: str, start: Fraction, end: Fraction) -> list[int]:
    """The rule of each scheme, written out."""
    inside = plain.inside(start, end)
    n = len(inside)
    kind, _, rest = scheme.partition(":")
    if kind == "rate":
        times = [start + k / Fraction(rest) for k in range(1000) if start + k / Fraction(rest) < end]
        return [plain.shown_at(time) for time in times]
    numbers, _, window = rest.partition("@")
    k, big_k = (int(part) for part in window.split("/")) if window else (1, 1)
    if kind == "uniform":
        count = int(numbers)
        part = inside[(k - 1) * n // big_k : k * n // big_k]
        return [part[int(Fraction(len(part), 2 * count) + i * Fraction(len(part), count))] for i in range(count)]
    count, stride = (int(part) for part in numbers.split("x"))
    places = max(n - (count - 1) * stride, 1)
    first = int(Fraction(places, 2 * big_k) + (k - 1) * Fraction(places, big_k))
    return [inside[min(first + i * stride, n - 1)] for i in range(count)]


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
    wanted = {scheme: expected(plain, scheme, first, last) for scheme in schemes}
    pixels = plain.pixels({rank for ranks in wanted.values() for rank in ranks})
    for scheme, ranks in wanted.items():
        frames = media.by_scheme[scheme]
        assert frames.available == len(plain.inside(first, last))
        assert (frames.indices + plain.inside(first, last)[0]).tolist() == ranks, scheme
        assert frames.times.tolist() == [float(plain.times[rank]) for rank in ranks], scheme
        assert frames.time_source == ("timestamps" if plain.rises else "index")
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
    for (start, end), one in zip(clips_, shared, strict=True):
        alone = decode(zoo / "packed.avi", "uniform:5", start=start, end=end)
        assert alone.frames is not None
        assert one.frames is not None
        assert alone.waveform is not None
        assert one.waveform is not None
        np.testing.assert_array_equal(one.frames.pixels, alone.frames.pixels)
        np.testing.assert_array_equal(one.waveform.samples, alone.waveform.samples)


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


def click_seconds(samples: np.ndarray, rate_hz: int) -> float:
    """The onset of the loud burst."""
    return float(np.argmax(np.abs(samples) > 0.45)) / rate_hz


def plain_sound(path: Path) -> tuple[np.ndarray, int, Fraction]:
    """Mean of channels of all samples in a row, their rate, and where the first lies on the container's clock."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        start = frames[0].pts * frames[0].time_base
        pieces = []
        for frame in frames:
            samples = frame.to_ndarray().astype(np.float64)
            if np.issubdtype(frame.to_ndarray().dtype, np.integer):
                samples /= 2.0 ** (8 * frame.to_ndarray().dtype.itemsize - 1)
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            pieces.append(samples.mean(axis=0))
        return np.concatenate(pieces), stream.rate, start


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


def test_the_real_clips_are_a_plain_decode(real_data: Path) -> None:
    for path in sorted((real_data / "clips").iterdir()):
        if path.name != "corrupted.mp4":
            assert_is_a_plain_decode(path, ["uniform:25", "strided:8x32", "rate:2"])


@pytest.mark.parametrize("part", range(8))
def test_the_real_clips_of_vggsound_are_a_plain_decode(real_data: Path, part: int) -> None:
    for path in sorted((real_data / "vggsound-clips").glob("*.mp4"))[part::8]:
        plain = Plain(path)
        assert_is_a_plain_decode(path, ["uniform:25", "strided:8x32", "uniform:8@2/4"], plain=plain)
        assert_sound_is_a_plain_decode(path, plain)
