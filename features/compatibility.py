"""Whether this version of avfuse can still compute a cached feature."""

from avfuse.features import backbones
from avfuse.features.audio_images import get_audio_image, list_audio_images
from avfuse.features.inputs import filter_bank
from avfuse.features.media.reader import READERS
from avfuse.features.spec import AnyInput, FeatureSpec, FilterBankInput, ImageInput, ImportedInput, ModelSpec


def outdated_reason(spec: FeatureSpec) -> str | None:
    """The reader, representation, filter bank or backbone whose revision has changed, in words; None if none has.

    An outdated feature stays usable, but cannot be extended: new extractions have another key. Library networks
    (`timm:NAME`) are not checked, because that could download them.
    """
    return _outdated_input(spec.input) or (None if spec.model is None else _outdated_backbone(spec.model))


def is_registered(model: ModelSpec) -> bool:
    """Whether a backbone is known here; a plug-in may be registered on another machine only."""
    return backbones.is_adapted(model.backbone) or model.backbone in backbones.list_backbones()


def _outdated_input(feature_input: AnyInput) -> str | None:
    if isinstance(feature_input, ImportedInput):
        return None
    reader = feature_input.reader
    reason = _difference(f"reader {reader.name}", reader.revision, READERS.get(reader.name))
    if isinstance(feature_input, ImageInput) and feature_input.representation in list_audio_images():
        revision = get_audio_image(feature_input.representation).revision
        reason = reason or _difference("audio images", feature_input.revision, revision)
    if isinstance(feature_input, FilterBankInput):
        reason = reason or _difference("filter bank", feature_input.revision, filter_bank.REVISION)
    return reason


def _outdated_backbone(model: ModelSpec) -> str | None:
    if backbones.is_adapted(model.backbone) or not is_registered(model):
        return None
    return _difference(f"backbone {model.backbone}", model.revision, backbones.get_backbone(model.backbone).revision)


def _difference(component: str, cached: int, current: int | None) -> str | None:
    if cached == current:
        return None
    return f"{component} of revision {cached}, {'no longer offered' if current is None else f'now {current}'}"
