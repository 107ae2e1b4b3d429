"""Confidence intervals of a results table's rows, and tests of the difference between two.

Seeds and test clips both vary, and clips of one group (a source video, a scene) are not independent. What is estimated
is the expectation over new seeds and new groups of clips. In simulations with 40 groups and 5 seeds, whose accuracies
spread by up to 3 points, intervals of 95 % cover it in 93 to 97 % of trials, and tests at 5 % reject a true null in 3.5
to 6.5 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from avfuse.features.errors import UsageError

FEW_GROUPS = 30
"""Number of groups of test clips below which intervals and tests are rough, and tables say so."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and clips with its confidence interval, as shares of 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """The difference of two rows' accuracies, as a share of 1."""

    difference: float
    """The first row's accuracy less the second's."""
    low: float
    """Lower bound of the confidence interval."""
    high: float
    """Upper bound."""
    p: float
    """p value of no difference."""


@dataclass(frozen=True)
class _Estimate:
    """A mean over seeds and clips."""

    mean: float
    error: float
    """Standard error; infinite if all clips are in one group."""
    degrees: float
    """Degrees of freedom of the error."""
    groups: float
    """Effective number of groups."""

    def half_width(self, level: float) -> float:
        return float(stats.t.isf((1 - level) / 2, self.degrees) * self.error)

    def span(self, level: float) -> Interval:
        half = self.half_width(level)
        return Interval(self.mean, max(-1.0, self.mean - half), min(1.0, self.mean + half))


def interval(hits: NDArray[Any], groups: NDArray[Any], level: float = 0.95) -> Interval:
    """The accuracy of a head with its confidence interval, over new seeds and new groups of clips.

    A t interval on the log-odds scale, as errors are skewed near 0 and 1. The variance has two crossed random factors,
    seed and group. The group component is a jackknife over groups, which allows for unequal sizes, with Kish's
    effective number of groups less one as degrees of freedom. The seed component is the variance of their accuracies
    less the contribution of finitely many clips, at least 0. Satterthwaite's formula joins their degrees of freedom.

    Without any variance, as where every clip or none is right, the bounds are the exact binomial ones (Clopper and
    Pearson 1934) of as many trials as there are effective groups. The interval of a single group is 0 to 1.

    Args:
        hits: (S, n), whether each seed got each clip right: 0 or 1, or a share. The variance of seeds is unknown with
            one seed: the interval is then of this trained head on new groups of clips.
        groups: (n,), the group of each clip. Every clip has the same weight.
        level: confidence level.

    Raises UsageError for arrays that do not fit each other.

    Sources: Satterthwaite 1946; MacKinnon, Nielsen and Webb 2023 (jackknife over clusters); Carter, Schnepel and
    Steigerwald 2017 (effective number of clusters).
    """
    estimate = _estimate(hits, groups)
    if np.isinf(estimate.error):
        return Interval(estimate.mean, 0.0, 1.0)
    if np.isclose(estimate.error, 0):
        right, tail = estimate.mean * estimate.groups, (1 - level) / 2
        wrong = estimate.groups - right
        low = float(stats.beta.ppf(tail, right, wrong + 1)) if right > 0 else 0.0
        high = float(stats.beta.ppf(1 - tail, right + 1, wrong)) if wrong > 0 else 1.0
        return Interval(estimate.mean, low, high)
    half = estimate.half_width(level) / (estimate.mean * (1 - estimate.mean))
    low, high = expit(logit(estimate.mean) + np.array([-half, half]))
    return Interval(estimate.mean, float(low), float(high))


def difference_interval(values: NDArray[Any], groups: NDArray[Any], level: float = 0.95) -> Interval:
    """`interval` of values between -1 and 1, such as differences of hits, on their own scale. (S, n), (n,)."""
    return _estimate(values, groups).span(level)


def paired_test(one: NDArray[Any], other: NDArray[Any], groups: NDArray[Any], level: float = 0.95) -> PairedTest:
    """Test whether two heads differ in expected accuracy, from their hits (S, n) on the same clips with the same seeds.

    The paired t test that belongs to `difference_interval`: seeds and groups of clips both vary. Without any variance,
    where all groups differ by exactly the same, p is that of flipped signs, 2^(1 - G) for G effective groups.

    Raises UsageError for arrays that do not fit each other.
    """
    estimate = _estimate(_differences(one, other), groups)
    span = estimate.span(level)
    if estimate.error == 0:
        p = 2 ** (1 - estimate.groups) if estimate.mean else 1.0
    else:
        p = float(2 * stats.t.sf(abs(estimate.mean) / estimate.error, estimate.degrees))
    return PairedTest(span.mean, span.low, span.high, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of the p values of one table's tests."""
    from statsmodels.stats.multitest import multipletests  # takes over a second to import

    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []  # type: ignore[no-any-return]


def few_groups_warning(groups: NDArray[Any], clips: str = "test clips") -> str | None:
    """Warning about intervals over fewer than FEW_GROUPS groups; None with enough. groups: (n,), one per clip. clips:
    their name in the warning."""
    count = len(pd.unique(groups))
    if count >= FEW_GROUPS:
        return None
    return f"Only {count} groups of {clips}: the intervals are rough ({FEW_GROUPS} or more would be sound)."


def _estimate(values: NDArray[Any], groups: NDArray[Any]) -> _Estimate:
    """Mean of values (S, n) over seeds and clips, with its error."""
    sums, sizes = _group_sums(values, groups)
    seeds, count = sums.shape
    clips = sizes.sum()
    of_seed = sums.sum(axis=1) / clips
    mean, effective = float(of_seed.mean()), float(clips**2 / (sizes**2).sum())
    if count == 1:
        return _Estimate(mean, np.inf, 1.0, 1.0)
    without = (sums.sum(axis=1, keepdims=True) - sums) / (clips - sizes)
    influence = (count - 1) * (of_seed[:, None] - without)
    of_group = influence.mean(axis=0)
    group_part = float((of_group**2).sum() / (count * (count - 1)))
    seed_part = 0.0
    if seeds > 1:
        both = ((influence - of_group) ** 2).sum() / ((seeds - 1) * (count - 1) * seeds * count)
        seed_part = max(0.0, float(of_seed.var(ddof=1) / seeds - both))
    variance = group_part + seed_part
    squares = group_part**2 / (effective - 1) + seed_part**2 / max(seeds - 1, 1)
    return _Estimate(mean, float(np.sqrt(variance)), variance**2 / squares if squares else np.inf, effective)


def _differences(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        shapes = " and ".join(f"{' seeds x '.join(map(str, hits.shape))} clips" for hits in (a, b))
        raise UsageError(f"rows of {shapes} cannot be compared: they need the same seeds and the same test clips")
    return a - b  # type: ignore[no-any-return]


def _group_sums(values: NDArray[Any], groups: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums (S, G) and sizes (G,) of groups. values (S, n), groups (n,)."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise UsageError(f"hits of shape {values.shape} are not (seeds, clips): give a row of hits for each seed")
    if len(groups) != values.shape[1]:
        raise UsageError(f"{len(groups)} groups for {values.shape[1]} clips: give the group of every clip")
    member, names = pd.factorize(np.asarray(groups))
    sums = np.array([np.bincount(member, weights=seed, minlength=len(names)) for seed in values], dtype=np.float64)
    return sums, np.bincount(member).astype(np.float64)
