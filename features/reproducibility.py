"""Check that this installation reproduces a cached feature, before it extracts the feature from new clips."""

from collections.abc import Iterator, Mapping
from typing import Any

from avfuse.features.backbones import WeightsChoice
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import PUBLISHED, resolve
from avfuse.features.media.reader import DEFAULT_READER
from avfuse.features.spec import FeatureSpec, FramesInput, ImageInput

_SHOWN = 24
"""Longest value shown whole in a message."""


def check_reproducible(spec: FeatureSpec, weights: WeightsChoice = PUBLISHED) -> None:
    """Raises UsageError if the feature was imported, if the same name and options have another key here (the message
    names the differences), and as `resolve`, such as for an unknown backbone."""
    if spec.imported:
        raise UsageError(
            f"feature '{spec.name}' was computed elsewhere, and cannot be extracted from new clips: name heads that "
            "see features of avfuse's own"
        )
    current = current_spec(spec, weights)
    if current.key == spec.key:
        return
    there, here = (dict(_flatten(side.model_dump(mode="json"))) for side in (spec, current))
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    changes = "; ".join(f"{name} {_short(there.get(name))} there, {_short(here.get(name))} here" for name in differing)
    advice = "extract it and train again, or use the version of avfuse that extracted it"
    if differing == ["model.checkpoint"] and spec.model is not None:
        advice = f"name the weights that it was extracted with, --weights {spec.model.backbone}=FILE"
    raise UsageError(f"feature '{spec.name}' of the heads is not the one extracted here ({changes}): {advice}")


def current_spec(spec: FeatureSpec, weights: WeightsChoice = PUBLISHED) -> FeatureSpec:
    """The spec that the same name and options have here. Raises UsageError as `resolve`."""
    source = spec.input
    (current,) = resolve(
        [spec.name],
        sampling=source.sampling.partition("@")[0] if isinstance(source, FramesInput) else None,
        reader=source.reader.name if isinstance(source, FramesInput) else DEFAULT_READER,
        size=(source.height, source.width) if isinstance(source, ImageInput) else None,
        weights=weights,
        precision="float32" if spec.compute == "float64" else spec.compute,
        dtype=spec.dtype,
    )
    return current


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables, under dotted names."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:12]}..."
