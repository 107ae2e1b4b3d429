"""From the roles that a table names to features that are cached, or to the extract_commands that cache them."""

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
    """A feature by name, with the sampling of its frames where that is not the usual one."""

    name: str
    sampling: str | None = None


def features_for_role(backbones: Backbones, role: str) -> list[RequestedFeature] | None:
    """The features that stand for a role, or that it is itself; None where there are none."""
    text = role if _is_feature(role) else backbones.roles.get(role)
    if text is None:
        return None
    named, _, sampling = text.partition(" ")
    return [RequestedFeature(name, sampling or None) for name in expand_names(named.split(","))]


def row_features(
    table: ExperimentTable, backbones: Backbones
) -> tuple[dict[str, dict[str, list[RequestedFeature]]], dict[str, str]]:
    """The features of each row's modalities by the row's id, and why the other rows cannot be run."""
    found, why = {}, {}
    for row in table.trained:
        roles = {modality: getattr(row, modality) for modality in MODALITIES}
        lacking = [role for named in roles.values() for role in named if features_for_role(backbones, role) is None]
        if lacking:
            why[row.id] = f"'{backbones.name}' has nothing for {lacking[0]}"
            continue
        found[row.id] = {
            modality: [each for role in named for each in features_for_role(backbones, role) or ()]
            for modality, named in roles.items()
        }
    return found, why


def needs_filter_banks(settings: Mapping[str, object]) -> bool:
    """Whether clips' filter banks are read beside features."""
    return float(str(settings.get("masked", 0))) > 0


def cached_name(cache: Path, manifest: Manifest, wanted: RequestedFeature) -> str | None:
    """The cached feature as `NAME@KEY`; None where there is none. Raises UsageError where several could be meant."""
    if "@" in wanted.name:
        return wanted.name
    specs = find_specs(cache, manifest.collection, wanted.name)
    sampling = wanted.sampling or (DEFAULT_SAMPLING if len(specs) > 1 else None)
    if sampling is not None:
        specs = [spec for spec in specs if _sampling(spec) in (None, sampling)]
    if len(specs) > 1:
        find_spec(cache, manifest.collection, wanted.name)  # raises
    return f"{specs[0].name}@{specs[0].key}" if specs else None


def find_cached(
    cache: Path, manifest: Manifest, wanted: Iterable[RequestedFeature]
) -> tuple[dict[RequestedFeature, str], list[RequestedFeature]]:
    """Cached features by what was wanted, and those that are not there."""
    found: dict[RequestedFeature, str] = {}
    missing = []
    for each in dict.fromkeys(wanted):
        name = cached_name(cache, manifest, each)
        if name is None:
            missing.append(each)
        else:
            found[each] = name
    return found, missing


def requested_features(
    table: ExperimentTable, rows: Mapping[str, Mapping[str, Sequence[RequestedFeature]]], data: str | None
) -> list[RequestedFeature]:
    """Every feature that these rows need, filter banks among them."""
    features = [each for inputs in rows.values() for named in inputs.values() for each in named]
    if any(row.id in rows and needs_filter_banks(table.settings_of(row, data)) for row in table.trained):
        features.append(RequestedFeature(FILTER_BANK))
    return list(dict.fromkeys(features))


def group_by_sampling(missing: Iterable[RequestedFeature]) -> dict[str | None, list[str]]:
    """Names of features that one extraction can compute together."""
    groups: dict[str | None, list[str]] = {}
    for each in missing:
        groups.setdefault(each.sampling, []).append(each.name)
    return groups


def extract_commands(dataset: str, missing: Iterable[RequestedFeature]) -> list[str]:
    """What a user types for features to be cached."""
    return [
        f"make extract DATASET={dataset} FEATURES={','.join(names)}" + (f" FRAMES={sampling}" if sampling else "")
        for sampling, names in group_by_sampling(missing).items()
    ]


def is_substitute(backbones: Backbones, row: TableRow) -> bool:
    """Whether any of a row's features is of another network than the paper's."""
    roles = {role for role in (*row.video, *row.audio) if not _is_feature(role)}
    if isinstance(backbones.substitute, bool):
        return backbones.substitute and bool(roles)
    return not roles.isdisjoint(backbones.substitute)


def feature_marks(backbones: Backbones, row: TableRow) -> list[str]:
    """What a reader must know of a row's features."""
    roles = [*row.video, *row.audio]
    return list(dict.fromkeys(backbones.marks[role] for role in roles if role in backbones.marks))


def require_some(rows: Mapping[str, object], table: ExperimentTable, why: Mapping[str, str]) -> None:
    """Raises UsageError where no row can be run."""
    if not rows:
        reason = next(iter(why.values()), "it has published rows alone")
        raise UsageError(
            f"no row of {table.name} can be run ({reason}): name other networks (--backbones), or in a table of your "
            "own features by their names, such as lite:mfcc"
        )


def _is_feature(role: str) -> bool:
    return ":" in role


def _sampling(spec: FeatureSpec) -> str | None:
    """Of frames, without the window; None for sound."""
    return spec.input.sampling.partition("@")[0] if isinstance(spec.input, FramesInput) else None
