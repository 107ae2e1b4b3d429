"""The public door for people who only want the numbers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.cache.shard import open_verified
from features.cache.store import FeatureStore, find_spec
from features.spec import FeatureSpec


@dataclass(frozen=True)
class Table:
    """Every cached row of one feature: clip_ids (n,) and data (n, *shape), in the order of clip_ids."""

    spec: FeatureSpec
    clip_ids: list[str]
    data: NDArray[np.generic]


def load(dataset: str, feature_name: str, cache: str | Path = "cache") -> Table:
    """All cached rows of one feature of a data set's collection, read and verified.

    Args:
        dataset: the collection's name, for example `demo`.
        feature_name: for example `lite:frames`; `name@key` picks one of several variants.
        cache: the cache folder.

    Raises:
        UsageError: nothing of that name is cached, several variants are, or a shard is damaged.
    """
    store = FeatureStore(Path(cache), dataset, find_spec(Path(cache), dataset, feature_name))
    chosen = {clip_id: rows[0] for clip_id, rows in sorted(store.rows.items()) if rows[0].outcome == "done"}
    data = np.empty((len(chosen), *store.spec.shape), dtype=store.spec.dtype)
    places = {(row.shard, row.row): index for index, row in enumerate(chosen.values())}
    for shard in store.shards():
        with open_verified(shard) as file:
            for row, values in enumerate(file["data"][()]):
                if (shard, row) in places:
                    data[places[shard, row]] = values
    return Table(spec=store.spec, clip_ids=list(chosen), data=data)
