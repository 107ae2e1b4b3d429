"""Whether this version of avfuse can still make a feature that is in the cache."""

from avfuse.features import backbones
from avfuse.features.audio_images import REPRESENTATION_REVISION
from avfuse.features.inputs import filter_bank
from avfuse.features.media.reader import READERS
from avfuse.features.spec import AnyInput, FeatureSpec, FilterBankInput, ImageInput, ImportedInput, ModelSpec


def outdated_reason(spec: FeatureSpec) -> str | None:
    """Which reader, representation, filter bank or backbone has had another revision since; None where none has.

    An outdated feature stays usable, and is never made again: what is extracted now has another key. Networks of
    libraries (`timm:NAME`) are not asked for their revision, which could mean to fetch them.
    """
    return _outdated_input(spec.input) or (None if spec.model is None else _outdated_backbone(spec.model))


def is_registered(model: ModelSpec) -> bool:
    """Whether a backbone's name is known here: a user's own may be registered elsewhere."""
    return backbones.is_adapted(model.backbone) or model.backbone in backbones.list_backbones()


def _outdated_input(taken: AnyInput) -> str | None:
    if isinstance(taken, ImportedInput):
        return None
    reason = _difference(f"reader {taken.reader.name}", taken.reader.revision, READERS.get(taken.reader.name))
    if isinstance(taken, ImageInput):
        reason = reason or _difference("audio images", taken.revision, REPRESENTATION_REVISION)
    if isinstance(taken, FilterBankInput):
        reason = reason or _difference("filter bank", taken.revision, filter_bank.REVISION)
    return reason


def _outdated_backbone(model: ModelSpec) -> str | None:
    if backbones.is_adapted(model.backbone) or not is_registered(model):
        return None
    return _difference(f"backbone {model.backbone}", model.revision, backbones.get_backbone(model.backbone).revision)


def _difference(what: str, then: int, now: int | None) -> str | None:
    if then == now:
        return None
    return f"{what} of revision {then}, {'no longer offered' if now is None else f'now {now}'}"
