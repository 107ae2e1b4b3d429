"""Cached features across the data sets of a cache: listing, resolving names, and finding unreachable ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from avfuse.features.cache.catalog import CachedFeature, cached_features, collections, select_features
from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.maintenance.remove import Removal, plan_unlisted, plan_whole
from avfuse.features.cache.maintenance.summary import FeatureStatus, feature_status
from avfuse.features.compatibility import outdated_reason
from avfuse.manifests import Manifest, list_manifests, load_manifest


def list_features(cache: Path, dataset: str | None) -> Iterator[tuple[str, dict[str, ClipQuery], list[FeatureStatus]]]:
    """Collection by collection: its name, the clips of its data sets by name, and the status of its features.

    dataset: list its collection only, and count over its clips; None counts every clip that has a row.
    """
    manifests = load_manifests(cache, dataset)
    for collection in collections(cache) if dataset is None else [manifests[0].collection]:
        data_sets = {
            manifest.name: ClipQuery(manifest.clips()) for manifest in manifests if manifest.collection == collection
        }
        features = [feature for feature in cached_features(cache, collection) if feature.paths()]
        yield collection, data_sets, [feature_status(feature, data_sets, dataset) for feature in features]


def load_manifests(cache: Path, dataset: str | None = None) -> list[Manifest]:
    """The manifest of a data set, or all manifests of a cache."""
    return [load_manifest(cache, name) for name in (list_manifests(cache) if dataset is None else [dataset])]


def find_features(cache: Path, names: Sequence[str], dataset: str | None) -> dict[str, list[CachedFeature] | None]:
    """Features of these names by collection, in the collection of a data set or in all; without names, None each.

    Raises UsageError for an unknown name.
    """
    chosen = collections(cache) if dataset is None else [load_manifest(cache, dataset).collection]
    if not names:
        return dict.fromkeys(chosen)
    by_collection = {collection: cached_features(cache, collection) for collection in chosen}
    select_features([feature for features in by_collection.values() for feature in features], names, ", ".join(chosen))
    named = {
        collection: [feature for feature in features if any(map(feature.matches, names))]
        for collection, features in by_collection.items()
    }
    return {collection: features for collection, features in named.items() if features}


def plan_unreachable(features: Sequence[CachedFeature], listed: Sequence[ClipQuery]) -> list[Removal]:
    """Removals of features that this version cannot compute any more, and of rows whose clips no data set lists.

    Features that cannot be read are skipped.
    """
    removals = []
    for feature in features:
        if feature.spec is None:
            continue
        if reason := outdated_reason(feature.spec):
            removals.append(plan_whole(feature, reason))
        elif removal := plan_unlisted(feature, listed):
            removals.append(removal)
    return removals
