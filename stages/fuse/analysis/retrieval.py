"""Retrieval between modalities: pictures by sound and sounds by picture, and how well it finds partners."""

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
"""Modality of the candidates, by that of a query."""

CUTOFFS = (1, 5, 10)
"""k of recall@k and precision@k."""

DECIMALS = 6
"""Similarities equal to so many decimals are ties: smaller differences are rounding, as between silent clips."""

_BYTES = 2**26
"""Limit of similarities in memory at once."""


@dataclass(frozen=True)
class Retrieval:
    """One direction of search, in which every clip with both modalities is a query once."""

    source: str
    """The modality of queries."""
    candidates: int
    """All clips that have the other modality."""
    queries: pd.DataFrame
    """A line per query: `clip`, its position among the clips given; `nearer`, how many candidates are nearer than its
    own partner; `tied`, how many are as near, the partner included; `rank` of the partner, the middle of the tied ones;
    `precision@k` of the k nearest."""
    measures: pd.DataFrame
    """A line per `measure`: its `value` with its 95 % interval over groups of queries, `low` and `high`; `chance`, the
    value of candidates in random order. Shares of 1 but for the median rank."""


def cosine_similarity(embeddings: Sequence[Embeddings], source: str, queries: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosines of query clips in the modality `source` with all clips in the other one, averaged over heads.

    queries: (q,), indices. -> (q, n); columns of clips without that modality mean nothing.
    """
    other = OTHER_MODALITY[source]
    total = np.zeros((len(queries), len(embeddings[0].has[source])))
    for of_head in embeddings:
        total += of_head.vectors[source][queries].astype(np.float64) @ of_head.vectors[other].T.astype(np.float64)
    return np.round(total / len(embeddings), DECIMALS)


def evaluate_retrieval(
    embeddings: Sequence[Embeddings], source: str, truth: Sequence[Truth], groups: NDArray[np.object_]
) -> Retrieval:
    """Measure how well clips retrieve their own partners, and others of their class.

    Ties count as random order would on average, so that uninformative embeddings score at chance. With `a`
    candidates nearer than the partner and `t` as near, the partner included:

    * `recall@k`: (k - a) / t, from 0 to 1, is the share of orders in which the partner is among the k nearest.
    * `mean reciprocal rank`: the mean of 1 / (a + 1), ..., 1 / (a + t).
    * `median rank`: of a + (t + 1) / 2. Its interval has all ranks m for which the interval of the share of ranks up to
      m contains one half.
    * `precision@k`: the share of the k nearest that have the query's class, its own partner included; of those tied at
      rank k, as many as fit. Clips have the same class if they agree in every target; in a target of several classes,
      if they share one.

    Measures with k above the number of candidates are omitted. Intervals are those of `statistics.interval` for these
    very heads, on new groups of clips.

    Args:
        embeddings: the same clips embedded by each seed of a row.
        source: the modality of queries, `audio` or `video`.
        truth: an array per target for these clips, int64 (n,) or bool (n, C).
        groups: (n,), the group of each clip.

    Raises:
        UsageError: fewer than two clips have both modalities.
    """
    candidates = np.flatnonzero(embeddings[0].has[OTHER_MODALITY[source]])
    queries = np.flatnonzero(embeddings[0].has["audio"] & embeddings[0].has["video"])
    if len(queries) < 2:
        raise UsageError(
            f"{len(queries)} of {len(groups)} clips have both sound and picture: name a split with more (--split all)"
        )
    ks = [k for k in CUTOFFS if k <= len(candidates)]
    ranked = pd.concat(
        [_rank_partners(embeddings, source, batch, candidates, truth, ks) for batch in _batches(queries, len(groups))]
    )
    return Retrieval(
        source,
        len(candidates),
        ranked.drop(columns="same").reset_index(drop=True),
        pd.DataFrame(_measures(ranked, len(candidates), groups[queries], ks)),
    )


def nearest_clips(embeddings: Sequence[Embeddings], source: str, query: int, among: NDArray[np.int64]) -> pd.DataFrame:
    """The clips at the indices `among` that have the other modality, the nearest to one query first, and equals in the
    order given: `clip`, the index, its `cosine_similarity`, and its `rank`, of equals the middle.

    Raises UsageError where there is none, and where the query lacks the modality `source`.
    """
    if not embeddings[0].has[source][query]:
        raise UsageError(f"the query has no {source} feature: search --from {OTHER_MODALITY[source]}")
    candidates = among[embeddings[0].has[OTHER_MODALITY[source]][among]]
    if not len(candidates):
        raise UsageError(f"no clip of this split has a feature of {OTHER_MODALITY[source]}: name another (--split all)")
    similarities = pd.Series(cosine_similarity(embeddings, source, np.array([query]))[0, candidates])
    ranked = pd.DataFrame({"clip": candidates, "similarity": similarities, "rank": similarities.rank(ascending=False)})
    return ranked.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)


def _batches(queries: NDArray[np.int64], clips: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, _BYTES // (8 * clips))
    return (queries[start : start + size] for start in range(0, len(queries), size))


def _rank_partners(
    embeddings: Sequence[Embeddings],
    source: str,
    queries: NDArray[np.int64],
    candidates: NDArray[np.int64],
    truth: Sequence[Truth],
    ks: Sequence[int],
) -> pd.DataFrame:
    """`Retrieval.queries`, with `same`, the share of candidates of a query's class."""
    similarities = cosine_similarity(embeddings, source, queries)
    own = similarities[np.arange(len(queries)), queries][:, None]
    similarities = similarities[:, candidates]
    same = _same_class(truth, queries, candidates)
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


def _same_class(truth: Sequence[Truth], queries: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(q, c)."""
    agree = [
        of_target[queries, None] == of_target[candidates]
        if of_target.ndim == 1
        else of_target[queries].astype(np.float32) @ of_target[candidates].astype(np.float32).T > 0
        for of_target in truth
    ]
    return np.logical_and.reduce(agree)  # type: ignore[no-any-return]


def _precision(similarities: NDArray[np.float64], same: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """(q,)."""
    last = -np.partition(-similarities, k - 1, axis=1)[:, k - 1, None]
    inside, at_the_end = similarities > last, similarities == last
    room = k - inside.sum(axis=1)
    taken = (same & at_the_end).sum(axis=1) * room / at_the_end.sum(axis=1)
    return ((same & inside).sum(axis=1) + taken) / k  # type: ignore[no-any-return]


def _measures(
    queries: pd.DataFrame, candidates: int, groups: NDArray[np.object_], ks: Sequence[int]
) -> Iterator[dict[str, str | float]]:
    """Lines of `Retrieval.measures`."""
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
    """Its bounds are the ranks at which the interval of the share of ranks up to them reaches one half."""
    values = np.unique([*ranks, candidates])

    def share(value: float) -> Interval:
        return _span((ranks <= value).astype(np.float64), groups)

    median = float(np.median(ranks))
    low = values[bisect_left(values, 0.5, key=lambda value: share(value).high)]
    high = values[min(bisect_left(values, 0.5, key=lambda value: share(value).low), len(values) - 1)]
    return Interval(median, min(float(low), median), max(float(high), median))
