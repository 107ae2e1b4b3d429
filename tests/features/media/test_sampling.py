"""Which frames a scheme takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UsageError
from features.media.sampling import parse_frames, uniform_indices


@given(available=st.integers(1, 5000), wanted=st.integers(1, 64))
def test_uniform_is_tsn_formula_in_exact_arithmetic(available: int, wanted: int) -> None:
    expected = [int((available * (2 * i + 1)) // (2 * wanted)) for i in range(wanted)]
    assert uniform_indices(available, wanted).tolist() == expected


@given(available=st.integers(25, 5000))
def test_uniform_equals_tsn_float_formula_away_from_rounding(available: int) -> None:
    tick = available / 25
    floats = [int(tick / 2 + tick * i) for i in range(25)]
    assert all(abs(a - b) <= 1 for a, b in zip(uniform_indices(available, 25).tolist(), floats, strict=True))
    assert uniform_indices(180, 25).tolist() == [int(7.2 / 2 + 7.2 * i) for i in range(25)]


@given(available=st.integers(1, 5000), wanted=st.integers(1, 64))
def test_indices_rise_and_stay_inside(available: int, wanted: int) -> None:
    indices = uniform_indices(available, wanted)
    assert (indices >= 0).all()
    assert (indices < available).all()
    assert (indices[1:] >= indices[:-1]).all()


@pytest.mark.parametrize("scheme", ["uniform", "uniform:0", "uniform:-3", "uniform:x", "every:2", ""])
def test_a_wrong_scheme_is_named(scheme: str) -> None:
    with pytest.raises(UsageError, match="uniform:N"):
        parse_frames(scheme)
