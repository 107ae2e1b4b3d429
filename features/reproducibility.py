"""Whether a feature that was computed before comes out the same here, of clips that it was not computed of."""

from collections.abc import Iterator, Mapping
from typing import Any

from avfuse.features.backbones import WeightsChoice
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import PUBLISHED, resolve
from avfuse.features.media.reader import DEFAULT_READER
from avfuse.features.spec import FeatureSpec, FramesInput, ImageInput

_SHOWN = 24
"""Letters of a value that are shown where two differ."""


def check_reproducible(spec: FeatureSpec, weights: WeightsChoice = PUBLISHED) -> None:
    """Raises UsageError where the feature of this name and these options has another key here, which says what
    differs; where it was computed elsewhere; and as `resolve`, such as for a backbone that is not known here."""
    if spec.imported:
        raise UsageError(
            f"feature '{spec.name}' was computed elsewhere, and cannot be made of new clips: name heads that see "
            "features of avfuse's own"
        )
    again = current_spec(spec, weights)
    if again.key == spec.key:
        return
    there, here = (dict(_values(each.model_dump(mode="json"))) for each in (spec, again))
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    said = "; ".join(f"{name} {_short(there.get(name))} there, {_short(here.get(name))} here" for name in differing)
    way_out = "extract it and train again, or take the version of avfuse that it was made with"
    if differing == ["model.checkpoint"] and spec.model is not None:
        way_out = f"name the weights that it was made with, --weights {spec.model.backbone}=FILE"
    raise UsageError(f"feature '{spec.name}' that the heads see is not the one made here ({said}): {way_out}")


def current_spec(spec: FeatureSpec, weights: WeightsChoice = PUBLISHED) -> FeatureSpec:
    """What the same name and options stand for now. Raises UsageError as `resolve`."""
    taken = spec.input
    (again,) = resolve(
        [spec.name],
        sampling=taken.sampling.partition("@")[0] if isinstance(taken, FramesInput) else None,
        reader=taken.reader.name if isinstance(taken, FramesInput) else DEFAULT_READER,
        size=(taken.height, taken.width) if isinstance(taken, ImageInput) else None,
        weights=weights,
        precision="float32" if spec.compute == "float64" else spec.compute,
        dtype=spec.dtype,
    )
    return again


def _values(described: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in nested tables, under names with dots."""
    for name, value in described.items():
        if isinstance(value, dict):
            yield from _values(value, f"{before}{name}.")
        else:
            yield before + name, value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:12]}..."
