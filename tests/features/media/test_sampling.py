"""Which frames a scheme takes."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avfuse.features.errors import ClipError, UsageError
from avfuse.features.media.sampling import frames_per_clip, parse_sampling, segment_centres
from avfuse.features.media.timeline import TimeInterval, Timeline


@given(available=st.integers(1, 5000), wanted=st.integers(1, 64))
def test_uniform_is_tsn_formula_in_exact_arithmetic(available: int, wanted: int) -> None:
    expected = [int((available * (2 * i + 1)) // (2 * wanted)) for i in range(wanted)]
    assert segment_centres(available, wanted).tolist() == expected


@given(available=st.integers(25, 5000))
def test_uniform_equals_tsn_float_formula_away_from_rounding(available: int) -> None:
    tick = available / 25
    floats = [int(tick / 2 + tick * i) for i in range(25)]
    assert all(abs(a - b) <= 1 for a, b in zip(segment_centres(available, 25).tolist(), floats, strict=True))
    assert segment_centres(180, 25).tolist() == [int(7.2 / 2 + 7.2 * i) for i in range(25)]


@given(available=st.integers(1, 5000), wanted=st.integers(1, 64))
def test_indices_rise_and_stay_inside(available: int, wanted: int) -> None:
    indices = segment_centres(available, wanted)
    assert (indices >= 0).all()
    assert (indices < available).all()
    assert (indices[1:] >= indices[:-1]).all()


@pytest.mark.parametrize(
    "scheme",
    [
        "uniform",
        "uniform:0",
        "uniform:-3",
        "uniform:x",
        "every:2",
        "uniform:4@0",
        "uniform:4@3/2",
        "strided:8",
        "strided:8x0",
        "strided:0x2",
        "rate:0",
        "rate:2@1/2",
        "rate:1/0",
        "rate:0.0",
        "uniform:8@/2",
        "",
    ],
)
def test_a_wrong_scheme_is_named_and_the_right_ones_shown(scheme: str) -> None:
    with pytest.raises(UsageError, match=f"'{scheme}'.*uniform:N.*strided:NxS.*rate:R"):
        parse_sampling(scheme)


@pytest.mark.parametrize(
    ("scheme", "frames"),
    [("uniform:25", 25), ("strided:8x32", 8), ("uniform:16@2/4", 16), ("strided:16x4@4", 64), ("uniform:3@2", 6)],
)
def test_a_scheme_knows_how_many_frames_it_gives(scheme: str, frames: int) -> None:
    assert frames_per_clip(scheme) == frames


def test_a_feature_cannot_have_a_length_of_its_own_per_clip() -> None:
    with pytest.raises(UsageError, match="rate:2"):
        frames_per_clip("rate:2")


def timeline_of(ticks: list[int], base: Fraction = Fraction(1, 25)) -> Timeline:
    return Timeline(ticks, base, ticks[0], base, ticks[0] * base, "timestamps")


def ranks(scheme: str, count: int) -> list[int]:
    return parse_sampling(scheme).select(timeline_of(list(range(count))), Fraction(0), Fraction(count, 25)).tolist()


def test_windows_of_a_strided_scheme_are_spread_evenly() -> None:
    assert ranks("strided:4x2", 20) == [7, 9, 11, 13]  # one window lies in the middle
    assert [ranks(f"strided:4x2@{k}/3", 20)[0] for k in (1, 2, 3)] == [2, 7, 11]
    assert ranks("strided:4x2@3", 20) == [r for k in (1, 2, 3) for r in ranks(f"strided:4x2@{k}/3", 20)]


def test_windows_of_a_uniform_scheme_are_equal_parts() -> None:
    assert ranks("uniform:2@1/4", 40) == [2, 7]
    assert ranks("uniform:2@4/4", 40) == [32, 37]


@pytest.mark.parametrize("scheme", ["uniform:25", "strided:8x4", "strided:3x2@5/5", "uniform:4@3/4"])
@given(count=st.integers(1, 12))
def test_too_few_frames_repeat_the_nearest(scheme: str, count: int) -> None:
    taken = ranks(scheme, count)
    assert len(taken) == frames_per_clip(scheme)
    assert taken == sorted(taken)
    assert set(taken) <= set(range(count))


ticks_of_a_clip = st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True).map(sorted)


@given(ticks=ticks_of_a_clip, numerator=st.integers(0, 2000))
def test_the_frame_on_display_is_the_last_to_have_started(ticks: list[int], numerator: int) -> None:
    timeline = timeline_of(ticks, Fraction(1001, 30000))
    time = Fraction(numerator, 97)
    started = [rank for rank in range(len(ticks)) if timeline.time(rank) <= time]
    assert timeline.rank_at(time) == started[-1]


@given(ticks=ticks_of_a_clip, start=st.integers(0, 1000), length=st.integers(1, 300))
def test_a_clip_has_the_frames_from_its_start_to_before_its_end(ticks: list[int], start: int, length: int) -> None:
    timeline = timeline_of(ticks, Fraction(1001, 30000))
    first, last = Fraction(start, 59), Fraction(start + length, 59)
    inside = [rank for rank in range(len(ticks)) if first <= timeline.time(rank) < last]
    assert list(timeline.inside(first, last)) == (inside or [timeline.rank_at(first)])


def test_a_time_in_decimals_is_meant_in_decimals() -> None:
    timeline = timeline_of(list(range(50)))
    assert TimeInterval.of(0.4, None).start == Fraction(2, 5) != Fraction(0.4)
    assert timeline.inside(TimeInterval.of(0.4, None).start, timeline.end).start == 10


def test_a_fixed_rate_shows_what_is_on_display_at_each_moment() -> None:
    assert ranks("rate:5", 25) == [0, 5, 10, 15, 20]
    assert ranks("rate:50", 3) == [0, 0, 1, 1, 2, 2]
    assert ranks("rate:7.5", 25) == [0, 3, 6, 10, 13, 16, 20, 23]
    assert ranks("rate:30000/1001", 25)[:4] == [0, 0, 1, 2]


def test_a_clip_that_claims_months_is_not_filled_with_repeats() -> None:
    with pytest.raises(ClipError, match="frames a second"):
        parse_sampling("rate:25").select(timeline_of([0, 1]), Fraction(0), Fraction(10**8))
