"""Cached features as text and JSON, for `avfuse features`."""

from collections.abc import Sequence
from typing import Any

from avfuse.features.cache.maintenance.remove import Removal
from avfuse.features.cache.maintenance.summary import FeatureStatus
from avfuse.features.compatibility import is_registered, outdated_reason
from avfuse.features.spec import FeatureSpec, ImportedInput

HASH_DIGITS = 12


def feature_lines(features: Sequence[FeatureStatus], missing: bool) -> list[str]:
    """A line per feature, and with `missing` the clips without a row and those that failed."""
    lines = []
    width = max(len(status.feature.name) for status in features)
    for status in features:
        spec = status.feature.spec
        size = f"{size_text(status.bytes)} in {count_text(status.shards, 'shard')}"
        if spec is None:
            lines.append(f"  {status.feature.name:<{width}}  cannot be read  {size}")
        else:
            absent = ", ".join(f"{count} of {name}" for name, count in status.missing.items()) or "no data set"
            lines.append(
                f"  {status.feature.name:<{width}}  {status.done:>6} done  {status.no_audio:>4} without audio"
                f"  {status.failed:>4} failed  missing: {absent}  {size}  {shape_text(spec)}"
                f"  {_source(spec)}{caveat_text(spec)}"
            )
        for path, reason in status.unreadable.items():
            lines.append(f"    {path.name}: {reason} (avfuse features verify --repair)")
        if missing and status.missing_clips:
            lines.append(f"    missing ({len(status.missing_clips)}): {', '.join(status.missing_clips)}")
        for clip_id, failure in status.failures.items() if missing else ():
            lines.append(
                f"    failed: {clip_id}: {failure.stage}: {failure.message} ({count_text(failure.attempts, 'attempt')})"
            )
    return lines


def feature_json(status: FeatureStatus, dataset: str | None) -> dict[str, Any]:
    """The status of a feature as JSON values; with `dataset`, the clips that are missing or failed as well."""
    spec = status.feature.spec
    entry: dict[str, Any] = {
        "collection": status.feature.collection,
        "name": status.feature.name if spec is None else spec.name,
        "key": status.feature.key,
        "folder": str(status.feature.folder),
        "bytes": status.bytes,
        "shards": status.shards,
        "unreadable": {str(path): reason for path, reason in status.unreadable.items()},
    }
    if spec is None:
        return entry
    entry |= {
        "done": status.done,
        "no_audio": status.no_audio,
        "failed": status.failed,
        "missing": status.missing,
        "untrained": spec.untrained,
        "outdated": outdated_reason(spec),
        "spec": spec.model_dump(mode="json"),
    }
    if dataset is not None:
        entry["missing_clips"] = status.missing_clips
        entry["failed_clips"] = {
            clip_id: {"reason": f"{failure.stage}: {failure.message}", "attempts": failure.attempts}
            for clip_id, failure in status.failures.items()
        }
    return entry


def removal_line(removal: Removal) -> str:
    """The rows, shards and bytes that a removal takes from one feature, with its reason."""
    rows = "all of it" if removal.whole else count_text(removal.clips, "clip")
    why = f" ({removal.reason})" if removal.reason else ""
    shards = count_text(len(removal.shards), "shard")
    return f"{removal.feature.name}: {rows}{why}, {shards}, {size_text(removal.bytes)}"


def removal_total(removals: Sequence[Removal]) -> str:
    """Features, shards, rows and bytes of all removals."""
    shards, clips = sum(len(removal.shards) for removal in removals), sum(removal.clips for removal in removals)
    return (
        f"{count_text(len(removals), 'feature')}, {count_text(shards, 'shard')}, rows of {count_text(clips, 'clip')}, "
        f"{size_text(sum(removal.bytes for removal in removals))}"
    )


def shape_text(spec: FeatureSpec) -> str:
    """Output, shape and type, such as `pooled 768 float16`."""
    return f"{spec.output} {'x'.join(map(str, spec.shape))} {spec.dtype}"


def caveat_text(spec: FeatureSpec) -> str:
    """Caveats in brackets: untrained weights, a feature that cannot be computed any more or here."""
    caveats = ["untrained weights"] if spec.untrained else []
    if reason := outdated_reason(spec):
        caveats.append(f"cannot be made any more: {reason}")
    if spec.model is not None and not is_registered(spec.model):
        caveats.append(f"cannot be made here: no backbone is called {spec.model.backbone}")
    return f"  ({'; '.join(caveats)})" if caveats else ""


def count_text(number: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size_text(count: float) -> str:
    """Bytes in the largest binary unit below 1024."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _source(spec: FeatureSpec) -> str:
    """The network with its checkpoint, or the kind of input."""
    if isinstance(spec.input, ImportedInput):
        return f"imported ({spec.input.description})"
    if spec.model is None:
        return "pictures" if spec.output == "image" else "filter bank"
    return f"{spec.model.backbone} {spec.model.checkpoint[:HASH_DIGITS]}"
