"""Search between modalities: pictures by sound and sounds by picture, and how often it finds what belongs together."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.analysis.embeddings import Embeddings
from avfuse.stages.fuse.evaluation.metrics import Truth
from avfuse.stages.fuse.evaluation.statistics import Interval, interval

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"retrieval": "evaluate_retrieval", "nearest": "nearest_clips"})

OTHER_MODALITY: Mapping[str, str] = {"audio": "video", "video": "audio"}
"""By the modality of a query, that of what is found."""

CUTOFFS = (1, 5, 10)
"""How many of the nearest are looked at."""

DECIMALS = 6
"""Similarities that agree in so many are equal: what differs by less is rounding, as of clips that are all silent."""

_BYTES = 2**26
"""Of similarities that are there at once."""


@dataclass(frozen=True)
class Retrieval:
    """One way of searching, every clip with both modalities being a query once. `source` is the modality of queries,
    and all `candidates` clips that have the other one are ranked.

    queries: a line a query. `clip`, where it stands among the clips given; `nearer`, how many candidates are nearer
        than its own partner; `tied`, how many are as near, the partner among them; `rank` of the partner, the middle of
        those that are tied; `precision@k` of the k nearest.
    measures: a line a measure. `measure`; its `value` with its 95 % interval over groups of queries, `low` and `high`;
        `chance`, what candidates in random order give. All are shares of 1 but for the median rank.
    """

    source: str
    candidates: int
    queries: pd.DataFrame
    measures: pd.DataFrame


def cosine_similarity(every: Sequence[Embeddings], source: str, queries: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosines of the clips at the indices `queries` (q,), in the modality `source`, with all clips in the other one,
    averaged over heads. (q, n); what stands in columns of clips without that modality means nothing."""
    total = np.zeros((len(queries), len(every[0].has[source])))
    for each in every:
        total += each.vectors[source][queries].astype(np.float64) @ each.vectors[OTHER_MODALITY[source]].T.astype(
            np.float64
        )
    return np.round(total / len(every), DECIMALS)


def evaluate_retrieval(
    every: Sequence[Embeddings], source: str, truth: Sequence[Truth], groups: NDArray[np.object_]
) -> Retrieval:
    """How well clips find their own partners, and others of their class.

    Ties are counted as what random order would give on average, so that embeddings which tell nothing come out at
    chance. With `a` candidates nearer than the partner and `t` as near as it, the partner among these:

    * `recall@k`: (k - a) / t, from 0 to 1, is the share of orders in which the partner is among the k nearest.
    * `mean reciprocal rank`: the mean of 1 / (a + 1), ..., 1 / (a + t).
    * `median rank`: of a + (t + 1) / 2. Its interval has all ranks m for which the interval of the share of ranks up to
      m holds one half.
    * `precision@k`: the share of the k nearest that are of the query's class, its own partner among them; of those tied
      at the end, as many as there is room for. Of one class are clips that agree in every target, or where a target has
      several classes share one.

    What has a larger k than there are candidates is left out. Intervals are those of `statistics.interval` for these
    very heads, on new groups of clips.

    Args:
        every: the same clips embedded by each seed of a row.
        source: the modality of queries, `audio` or `video`.
        truth: an array a target for these clips, int64 (n,) or bool (n, C).
        groups: (n,), the group of each clip.

    Raises UsageError where fewer than two clips have both modalities.
    """
    candidates = np.flatnonzero(every[0].has[OTHER_MODALITY[source]])
    queries = np.flatnonzero(every[0].has["audio"] & every[0].has["video"])
    if len(queries) < 2:
        raise UsageError(
            f"{len(queries)} of {len(groups)} clips have both sound and picture: name a split with more (--split all)"
        )
    ks = [k for k in CUTOFFS if k <= len(candidates)]
    found = pd.concat([_ranked(every, source, part, candidates, truth, ks) for part in _parts(queries, len(groups))])
    return Retrieval(
        source,
        len(candidates),
        found.drop(columns="same").reset_index(drop=True),
        pd.DataFrame(_measures(found, len(candidates), groups[queries], ks)),
    )


def nearest_clips(every: Sequence[Embeddings], source: str, query: int, among: NDArray[np.int64]) -> pd.DataFrame:
    """The clips at the indices `among` that have the other modality, the nearest to one query first, and equals in the
    order given: `clip`, the index, its `cosine_similarity`, and its `rank`, of equals the middle.

    Raises UsageError where there is none, and where the query lacks the modality `source`.
    """
    if not every[0].has[source][query]:
        raise UsageError(f"the query has no {source} feature: search --from {OTHER_MODALITY[source]}")
    candidates = among[every[0].has[OTHER_MODALITY[source]][among]]
    if not len(candidates):
        raise UsageError(f"no clip of this split has a feature of {OTHER_MODALITY[source]}: name another (--split all)")
    similarities = pd.Series(cosine_similarity(every, source, np.array([query]))[0, candidates])
    found = pd.DataFrame({"clip": candidates, "similarity": similarities, "rank": similarities.rank(ascending=False)})
    return found.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)


def _parts(queries: NDArray[np.int64], clips: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, _BYTES // (8 * clips))
    return (queries[start : start + size] for start in range(0, len(queries), size))


def _ranked(
    every: Sequence[Embeddings],
    source: str,
    queries: NDArray[np.int64],
    candidates: NDArray[np.int64],
    truth: Sequence[Truth],
    ks: Sequence[int],
) -> pd.DataFrame:
    """Of `Retrieval.queries`, and `same`, the share of candidates that are of a query's class."""
    similarities = cosine_similarity(every, source, queries)
    own = similarities[np.arange(len(queries)), queries][:, None]
    similarities = similarities[:, candidates]
    same = _of_one_class(truth, queries, candidates)
    nearer, tied = (similarities > own).sum(axis=1), (similarities == own).sum(axis=1)
    return pd.DataFrame(
        {
            "clip": queries,
            "nearer": nearer,
            "tied": tied,
            "rank": nearer + (tied + 1) / 2,
            **{f"precision@{k}": _precision(similarities, same, k) for k in ks},
            "same": same.mean(axis=1),
        }
    )


def _of_one_class(
    truth: Sequence[Truth], queries: NDArray[np.int64], candidates: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(q, c)."""
    agree = [
        each[queries, None] == each[candidates]
        if each.ndim == 1
        else each[queries].astype(np.float32) @ each[candidates].astype(np.float32).T > 0
        for each in truth
    ]
    return np.logical_and.reduce(agree)  # type: ignore[no-any-return]


def _precision(similarities: NDArray[np.float64], same: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Of each query (q,)."""
    last = -np.partition(-similarities, k - 1, axis=1)[:, k - 1, None]
    inside, at_the_end = similarities > last, similarities == last
    room = k - inside.sum(axis=1)
    taken = (same & at_the_end).sum(axis=1) * room / at_the_end.sum(axis=1)
    return ((same & inside).sum(axis=1) + taken) / k  # type: ignore[no-any-return]


def _measures(
    queries: pd.DataFrame, candidates: int, groups: NDArray[np.object_], ks: Sequence[int]
) -> Iterator[dict[str, str | float]]:
    """Of `Retrieval.measures`."""
    nearer, tied = queries["nearer"].to_numpy(), queries["tied"].to_numpy()
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, candidates + 1))])
    for k in ks:
        yield _line(f"recall@{k}", _span(((k - nearer) / tied).clip(0, 1), groups), k / candidates)
    reciprocal = (harmonic[nearer + tied] - harmonic[nearer]) / tied
    yield _line("mean reciprocal rank", _span(reciprocal, groups), harmonic[candidates] / candidates)
    yield _line("median rank", _median(queries["rank"].to_numpy(), candidates, groups), (candidates + 1) / 2)
    for k in ks:
        yield _line(f"precision@{k}", _span(queries[f"precision@{k}"].to_numpy(), groups), queries["same"].mean())


def _line(measure: str, span: Interval, chance: float) -> dict[str, str | float]:
    return {"measure": measure, "value": span.mean, "low": span.low, "high": span.high, "chance": chance}


def _span(shares: NDArray[np.float64], groups: NDArray[np.object_]) -> Interval:
    return interval(shares[None], groups)


def _median(ranks: NDArray[np.float64], candidates: int, groups: NDArray[np.object_]) -> Interval:
    """With the bounds at which the intervals of the shares of ranks up to them reach one half."""
    values = np.unique([*ranks, candidates])

    def share(value: float) -> Interval:
        return _span((ranks <= value).astype(np.float64), groups)

    median = float(np.median(ranks))
    low = values[bisect_left(values, 0.5, key=lambda value: share(value).high)]
    high = values[min(bisect_left(values, 0.5, key=lambda value: share(value).low), len(values) - 1)]
    return Interval(median, min(float(low), median), max(float(high), median))
