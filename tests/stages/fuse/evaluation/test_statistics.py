"""Intervals and tests hold what they say, in simulation: seeds, groups and clips of known spread."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.evaluation.statistics import (
    FEW_GROUPS,
    difference_interval,
    few_groups_warning,
    holm,
    interval,
    paired_test,
)

TRIALS, SEEDS = 2000, 5
GROUPS = np.repeat(np.arange(40), np.maximum(1, np.random.default_rng(3).lognormal(2, 0.7, size=40)).astype(int))
"""40 groups of 1 to 75 clips, 393 in all: as telling as 16 of one size."""

GROUPS_OF_TEN = np.repeat(np.arange(40), 10)

Hits = NDArray[np.bool_]


def heads_of_known_accuracy(
    accuracies: tuple[float, ...], spread: float, trials: int = TRIALS, seeds: int = SEEDS, groups: NDArray = GROUPS
) -> Iterator[tuple[Hits, ...]]:
    """Hits (seeds, n) of each head in each trial, on new clips and from new seeds.

    A clip is right where a normal variable is above 0: the sum of what is easy about its group and about the clip, to
    every head and to this one, of what its seed is worth, and of what no seed has in common with others. `spread` is
    the standard deviation of a seed's expected accuracy.
    """
    generator = np.random.default_rng(0)
    member = np.unique(groups, return_inverse=True)[1]

    def draw(*shape: int) -> NDArray[np.float64]:
        return generator.standard_normal((*shape, len(member)))

    def draw_groups(*shape: int) -> NDArray[np.float64]:
        return generator.standard_normal((*shape, member.max() + 1))[..., member]

    deviation = np.sqrt(0.5**2 + 0.9**2 + 0.25**2 + 0.5**2 + 0.15**2 + 0.6**2)
    quantiles = norm.ppf(accuracies)
    of_seeds = spread * deviation / norm.pdf(quantiles)
    for _ in range(trials):
        easy = 0.5 * draw_groups() + 0.9 * draw()
        heads = []
        for quantile, of_seed in zip(quantiles, of_seeds, strict=True):
            suits = 0.25 * draw_groups() + 0.5 * draw()
            luck = of_seed * generator.standard_normal((seeds, 1)) + 0.15 * draw_groups(seeds) + 0.6 * draw(seeds)
            heads.append(quantile * np.hypot(deviation, of_seed) + easy + suits + luck > 0)
        yield tuple(heads)


@pytest.mark.parametrize(
    ("accuracy", "spread"),
    [
        (0.6, 0.02),
        *(
            pytest.param(accuracy, spread, marks=pytest.mark.slow)
            for accuracy in (0.6, 0.9)
            for spread in (0, 0.01, 0.02, 0.03)
            if (accuracy, spread) != (0.6, 0.02)
        ),
    ],
)
def test_intervals_hold_the_expected_accuracy_95_times_of_100(accuracy: float, spread: float) -> None:
    spans = [interval(hits, GROUPS) for (hits,) in heads_of_known_accuracy((accuracy,), spread)]
    assert 0.93 <= np.mean([span.low <= accuracy <= span.high for span in spans]) <= 0.97


def test_the_interval_of_one_seed_holds_what_seeds_that_do_not_vary_reach() -> None:
    spans = [interval(hits, GROUPS) for (hits,) in heads_of_known_accuracy((0.9,), 0, seeds=1)]
    assert 0.93 <= np.mean([span.low <= 0.9 <= span.high for span in spans]) <= 0.97


@pytest.mark.parametrize(
    ("accuracy", "spread"),
    [(0.6, 0.02), *(pytest.param(*each, marks=pytest.mark.slow) for each in [(0.6, 0), (0.9, 0), (0.9, 0.02)])],
)
def test_a_true_null_is_rejected_5_times_of_100(accuracy: float, spread: float) -> None:
    tests = [paired_test(*pair, GROUPS) for pair in heads_of_known_accuracy((accuracy, accuracy), spread)]
    assert 0.035 <= np.mean([test.p < 0.05 for test in tests]) <= 0.065


def test_ten_points_are_found() -> None:
    tests = [paired_test(*pair, GROUPS) for pair in heads_of_known_accuracy((0.7, 0.6), 0.02, trials=500)]
    assert np.mean([test.p < 0.05 for test in tests]) > 0.75
    assert np.mean([test.difference for test in tests]) == pytest.approx(0.1, abs=0.005)


def test_p_is_below_5_per_cent_where_the_interval_is_off_nought() -> None:
    for pair in heads_of_known_accuracy((0.65, 0.6), 0.01, trials=100):
        test = paired_test(*pair, GROUPS)
        assert (test.p < 0.05) == (not test.low <= 0 <= test.high)


def test_holm_by_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_twelve_groups_are_few() -> None:
    assert "Only 12 groups" in (few_groups_warning(np.arange(100) % 12) or "")
    assert few_groups_warning(np.array([f"v{number % FEW_GROUPS}" for number in range(100)], dtype=object)) is None


def test_where_nothing_varies_between_groups_the_interval_is_the_exact_one_of_as_many_trials() -> None:
    hits = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = interval(hits, np.arange(4))
    assert found.mean == 0.25
    exact = binomtest(1, 4).proportion_ci()
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.high - found.low > 0.7
    right = interval(np.ones((3, 10)), np.arange(10))
    assert (right.low, right.high) == (pytest.approx(0.025**0.1), 1)


def test_the_mean_counts_clips_alike_and_not_groups() -> None:
    hits = np.array([[1, 1, 1, 0]])
    assert interval(hits, np.array(["a", "a", "a", "b"])).mean == 0.75


def test_intervals_are_wider_when_clips_of_a_group_agree() -> None:
    hits = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 5)[None]
    grouped, alone = interval(hits, np.repeat(np.arange(40), 5)), interval(hits, np.arange(200))
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_intervals_are_wider_when_seeds_disagree() -> None:
    generator = np.random.default_rng(0)
    agreeing = np.tile(generator.random(400) < 0.6, (5, 1))
    luckier = np.stack([generator.random(400) < rate for rate in (0.4, 0.5, 0.6, 0.7, 0.8)])
    same, spread = interval(agreeing, GROUPS_OF_TEN), interval(luckier, GROUPS_OF_TEN)
    assert spread.high - spread.low > 2 * (same.high - same.low)
    assert interval(agreeing, GROUPS_OF_TEN) == interval(agreeing[:1], GROUPS_OF_TEN)  # nothing more is known


def test_errors_have_the_interval_of_hits_turned_round() -> None:
    hits = np.random.default_rng(0).random((3, 400)) < 0.95
    right, wrong = interval(hits, GROUPS_OF_TEN), interval(~hits, GROUPS_OF_TEN)
    assert (1 - wrong.high, 1 - wrong.low) == pytest.approx((right.low, right.high))
    assert right.mean - right.low > right.high - right.mean  # more room below


def test_where_all_are_right_the_bound_is_that_of_as_many_coins() -> None:
    span = interval(np.ones((5, 120)), np.arange(120) % 40)
    assert (span.mean, span.high) == (1, 1)
    assert span.low == pytest.approx(0.025 ** (1 / 40))
    none = interval(np.zeros((5, 120)), np.arange(120) % 40)
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.025 ** (1 / 40)))


def test_one_group_says_nothing() -> None:
    hits = np.array([[1, 0, 1, 1]])
    span = interval(hits, np.zeros(4))
    assert (span.mean, span.low, span.high) == (0.75, 0, 1)
    for alike in (0, 1):
        span = interval(np.full((2, 4), alike), np.zeros(4))
        assert (span.mean, span.low, span.high) == (alike, 0, 1)
    test = paired_test(hits, np.zeros((1, 4)), np.zeros(4))
    assert (test.difference, test.low, test.high, test.p) == (0.75, -1, 1, 1)


def test_rows_that_are_the_same_do_not_differ() -> None:
    hits = np.random.default_rng(0).random((3, 400)) < 0.7
    test = paired_test(hits, hits, GROUPS_OF_TEN)
    assert (test.difference, test.low, test.high, test.p) == (0, 0, 0, 1)


def test_a_difference_without_variance_is_only_as_sure_as_its_groups_are_many() -> None:
    test = paired_test(np.ones((5, 12)), np.zeros((5, 12)), np.arange(12) % 4)
    assert (test.difference, test.low, test.high) == (1, 1, 1)
    assert test.p == pytest.approx(2 / 2**4)


def test_a_difference_turned_round_has_its_interval_turned_round() -> None:
    one, other = np.random.default_rng(0).random((2, 3, 400)) < np.array([0.8, 0.7])[:, None, None]
    forth, back = paired_test(one, other, GROUPS_OF_TEN), paired_test(other, one, GROUPS_OF_TEN)
    assert (forth.difference, forth.low, forth.high, forth.p) == pytest.approx(
        (-back.difference, -back.high, -back.low, back.p)
    )
    span = difference_interval(one.astype(float) - other, GROUPS_OF_TEN)
    assert (span.mean, span.low, span.high) == (forth.difference, forth.low, forth.high)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="3 groups for 4 clips"):
        interval(np.ones((2, 4)), np.arange(3))
    with pytest.raises(UsageError, match=r"not \(seeds, clips\)"):
        interval(np.ones(4), np.arange(4))
    with pytest.raises(UsageError, match=r"5 seeds x 4 clips and 3 seeds x 4 clips.*same seeds"):
        paired_test(np.ones((5, 4)), np.ones((3, 4)), np.arange(4))
