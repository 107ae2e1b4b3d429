"""Roles of a table resolved to cached features, or to the commands that extract them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avfuse.features.cache.store import find_spec, find_specs
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import DEFAULT_SAMPLING, expand_names
from avfuse.features.spec import FeatureSpec, FramesInput
from avfuse.manifests import Manifest
from avfuse.pipeline.experiments.schema import Backbones, ExperimentTable, TableRow
from avfuse.stages.fuse.data.dataset import FILTER_BANK

MODALITIES = ("video", "audio")


@dataclass(frozen=True, order=True)
class RequestedFeature:
    """A feature that a table needs."""

    name: str
    sampling: str | None = None  # of frames; None for the default one


def features_for_role(backbones: Backbones, role: str) -> list[RequestedFeature] | None:
    """Features of a role, which may itself be a feature's name; None for a role that the map lacks."""
    text = role if _is_feature(role) else backbones.roles.get(role)
    if text is None:
        return None
    named, _, sampling = text.partition(" ")
    return [RequestedFeature(name, sampling or None) for name in expand_names(named.split(","))]


def row_features(
    table: ExperimentTable, backbones: Backbones
) -> tuple[dict[str, dict[str, list[RequestedFeature]]], dict[str, str]]:
    """Features of each row by modality, and the reason why each other row cannot be run; both by the row's id."""
    features, reasons = {}, {}
    for row in table.trained:
        roles = {modality: getattr(row, modality) for modality in MODALITIES}
        lacking = [role for names in roles.values() for role in names if features_for_role(backbones, role) is None]
        if lacking:
            reasons[row.id] = f"'{backbones.name}' has nothing for {lacking[0]}"
            continue
        features[row.id] = {
            modality: [feature for role in names for feature in features_for_role(backbones, role) or ()]
            for modality, names in roles.items()
        }
    return features, reasons


def needs_filter_banks(settings: Mapping[str, object]) -> bool:
    """Whether training reads the clips' filter banks beside their features."""
    return float(str(settings.get("masked", 0))) > 0


def cached_name(cache: Path, manifest: Manifest, feature: RequestedFeature) -> str | None:
    """The cached feature as `NAME@KEY`; None where it is not cached. Raises UsageError where the name is ambiguous."""
    if "@" in feature.name:
        return feature.name
    specs = find_specs(cache, manifest.collection, feature.name)
    sampling = feature.sampling or (DEFAULT_SAMPLING if len(specs) > 1 else None)
    if sampling is not None:
        specs = [spec for spec in specs if _sampling(spec) in (None, sampling)]
    if len(specs) > 1:
        find_spec(cache, manifest.collection, feature.name)  # raises
    return f"{specs[0].name}@{specs[0].key}" if specs else None


def find_cached(
    cache: Path, manifest: Manifest, requested: Iterable[RequestedFeature]
) -> tuple[dict[RequestedFeature, str], list[RequestedFeature]]:
    """Names of cached features by request, and the requests that are not cached."""
    names = {feature: cached_name(cache, manifest, feature) for feature in dict.fromkeys(requested)}
    cached = {feature: name for feature, name in names.items() if name is not None}
    return cached, [feature for feature, name in names.items() if name is None]


def requested_features(
    table: ExperimentTable, rows: Mapping[str, Mapping[str, Sequence[RequestedFeature]]], data: str | None
) -> list[RequestedFeature]:
    """Every feature that these rows need, with filter banks where training reads them."""
    features = [feature for inputs in rows.values() for named in inputs.values() for feature in named]
    if any(row.id in rows and needs_filter_banks(table.settings_of(row, data)) for row in table.trained):
        features.append(RequestedFeature(FILTER_BANK))
    return list(dict.fromkeys(features))


def group_by_sampling(missing: Iterable[RequestedFeature]) -> dict[str | None, list[str]]:
    """Names of features by sampling: each group is one extraction."""
    groups: dict[str | None, list[str]] = {}
    for feature in missing:
        groups.setdefault(feature.sampling, []).append(feature.name)
    return groups


def extract_commands(dataset: str, missing: Iterable[RequestedFeature]) -> list[str]:
    """Commands that extract these features."""
    return [
        f"make extract DATASET={dataset} FEATURES={','.join(names)}" + (f" FRAMES={sampling}" if sampling else "")
        for sampling, names in group_by_sampling(missing).items()
    ]


def is_substitute(backbones: Backbones, row: TableRow) -> bool:
    """Whether any feature of a row comes from another network than the paper's."""
    roles = {role for role in (*row.video, *row.audio) if not _is_feature(role)}
    if isinstance(backbones.substitute, bool):
        return backbones.substitute and bool(roles)
    return not roles.isdisjoint(backbones.substitute)


def feature_marks(backbones: Backbones, row: TableRow) -> list[str]:
    """Notes on a row's features."""
    roles = [*row.video, *row.audio]
    return list(dict.fromkeys(backbones.marks[role] for role in roles if role in backbones.marks))


def require_some(rows: Mapping[str, object], table: ExperimentTable, reasons: Mapping[str, str]) -> None:
    """Raises UsageError, with the first reason, where no row can be run."""
    if not rows:
        reason = next(iter(reasons.values()), "it has published rows alone")
        raise UsageError(
            f"no row of {table.name} can be run ({reason}): name other networks (--backbones), or in a table of your "
            "own features by their names, such as lite:mfcc"
        )


def _is_feature(role: str) -> bool:
    return ":" in role


def _sampling(spec: FeatureSpec) -> str | None:
    """Sampling of frames, without the window; None for sound."""
    return spec.input.sampling.partition("@")[0] if isinstance(spec.input, FramesInput) else None
