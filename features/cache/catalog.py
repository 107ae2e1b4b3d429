"""The contents of a cache: its collections and their features, in whatever state their shards are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from avfuse.features.cache.claims import FOLDER as CLAIMS
from avfuse.features.cache.shard_reader import Shard, read_shard
from avfuse.features.cache.store import FeatureStore, Rows, shard_names
from avfuse.features.errors import UsageError
from avfuse.features.name_rules import check_name
from avfuse.features.spec import KEY_DIGITS, FeatureSpec

_FEATURE_FOLDER = re.compile(rf"(.+)-([0-9a-f]{{{KEY_DIGITS}}})")


@dataclass(frozen=True)
class CachedFeature:
    """One feature's folder in a collection. spec: that of its first readable shard; None if no shard can be read."""

    cache: Path
    collection: str
    folder: Path
    spec: FeatureSpec | None

    @property
    def key(self) -> str:
        return self.folder.name[-KEY_DIGITS:]

    @property
    def name(self) -> str:
        """`name@key`, or the folder's name if no shard can be read."""
        return self.folder.name if self.spec is None else f"{self.spec.name}@{self.key}"

    def paths(self) -> list[Path]:
        return [self.folder / name for name in shard_names(self.folder)]

    def matches(self, text: str) -> bool:
        """Whether `text` is this feature's `name`, `name@key` or folder name."""
        name, _, key = text.partition("@")
        by_name = self.spec is not None and self.spec.name == name and self.key.startswith(key)
        return by_name or self.folder.name == text


def collections(cache: Path) -> list[str]:
    """The collections of a cache. Raises UsageError if there is no cache."""
    if not cache.is_dir():
        raise UsageError(f"there is no cache in {cache}: name its folder (--cache), or fill it with avfuse extract")
    return [folder.name for folder in sorted(cache.iterdir()) if folder.is_dir() and _is_collection(folder)]


def _is_collection(folder: Path) -> bool:
    try:
        check_name(folder.name, "collection")
    except UsageError:
        return False
    return any(is_feature_folder(inside) or inside.name == CLAIMS for inside in folder.iterdir())


def is_feature_folder(folder: Path) -> bool:
    return _FEATURE_FOLDER.fullmatch(folder.name) is not None and folder.is_dir()


def cached_features(cache: Path, collection: str) -> list[CachedFeature]:
    """The feature folders of a collection, empty ones included, by name."""
    parent = cache / collection
    folders = filter(is_feature_folder, sorted(parent.iterdir()) if parent.is_dir() else ())
    return [CachedFeature(cache, collection, folder, _spec_in(folder)) for folder in folders]


def select_features(features: Sequence[CachedFeature], names: Sequence[str], collection: str) -> list[CachedFeature]:
    """The features that a user names. Raises UsageError for a name that matches none."""
    for name in names:
        if not any(feature.matches(name) for feature in features):
            raise UsageError(f"feature '{name}' is not cached for '{collection}': see avfuse features list")
    return [feature for feature in features if any(map(feature.matches, names))]


def select_feature(features: Sequence[CachedFeature], name: str, collection: str) -> CachedFeature:
    """The one feature of a name. Raises UsageError if it matches none, or several."""
    chosen = select_features(features, [name], collection)
    if len(chosen) > 1:
        choices = ", ".join(feature.name for feature in chosen)
        raise UsageError(f"feature '{name}' is cached in {len(chosen)} variants: pick one of {choices}")
    return chosen[0]


def _spec_in(folder: Path) -> FeatureSpec | None:
    """The spec of the first shard that can be read and belongs in this folder."""
    for path in (folder / name for name in shard_names(folder)):
        try:
            spec = FeatureSpec.model_validate_json(read_shard(path).spec)
        except (UsageError, OSError, ValidationError):
            continue
        if spec.folder == folder.name:
            return spec
    return None


class ReadableStore(FeatureStore):
    """A feature's readable shards. unreadable: the reasons of the others, by path."""

    def __init__(self, cache: Path, collection: str, spec: FeatureSpec) -> None:
        super().__init__(cache, collection, spec)
        self.unreadable: dict[Path, str] = {}

    def paths(self) -> list[Path]:
        return [path for path in super().paths() if path not in self.unreadable]

    def _read(self, path: Path) -> Shard | None:
        try:
            return super()._read(path)
        except (UsageError, OSError) as error:
            self.unreadable[path] = error_reason(path, error)
            return None


def error_reason(path: Path, error: UsageError | OSError) -> str:
    """The reason of an error about a file, without the file's name."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return getattr(error, "reason", None) or str(error).removeprefix(str(path)).strip()


def group_ids(*columns: NDArray[np.generic]) -> NDArray[np.int64]:
    """The group (n,) of each row: rows with equal values in all columns (n,) are one group; NaN equals NaN."""
    table = {str(number): _hashable(column) for number, column in enumerate(columns)}
    return pd.DataFrame(table).groupby(list(table), sort=False, dropna=False).ngroup().to_numpy(np.int64, copy=True)


def clip_group_ids(rows: Rows) -> NDArray[np.int64]:
    """The group (n,) of each row by clip: id and interval."""
    return group_ids(rows.clip_id, rows.start, rows.end)


def media_group_ids(rows: Rows) -> NDArray[np.int64]:
    """The group (n,) of each row by clip and media file, whose modification time does not matter."""
    return group_ids(rows.clip_id, rows.start, rows.end, rows.size, rows.digest)


def _hashable(column: NDArray[np.generic]) -> NDArray[np.generic]:
    if column.dtype.kind == "V":
        return np.array(column.tolist(), dtype=object)
    return column.astype(object) if column.dtype.kind == "S" else column
