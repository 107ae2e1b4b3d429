"""How a head is trained, and how that and a head's own options are read from what a user types."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from avfuse.features.errors import UsageError


class Settings(BaseModel):
    """Named values that decide what comes out of training. They are checked, and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _choice_from_text(cls, value: Any, info: ValidationInfo) -> Any:
        """The choice that a text stands for, such as 1 for "1", which pydantic does not make of it in a Literal."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        return next((choice for choice in choices if str(choice) == value), value)


SettingsType = TypeVar("SettingsType", bound=Settings)


class Recipe(Settings):
    """How a head is trained unless the user says otherwise: Adam with decoupled weight decay (with 0 it is Adam), for
    at most `epochs`, less when validation has not improved for `patience` of them."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    batch_size: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[int, Field(ge=1)] = 60
    patience: Annotated[int, Field(ge=1)] = 10
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: down to nothing at `epochs`, whatever epoch is chosen."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of all steps over which the learning rate rises from nothing."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l1: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the sum of `|W|` over linear layers."""
    avc: Annotated[float, Field(ge=0)] = 0.0
    """Weight of audio-video contrast (AVT's equation 2)."""
    imc: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the supervised contrast inside each modality (MMT)."""
    contrast_labels: bool = False
    """Whether every pair of one class is right in audio-video contrast (MMT), not only a clip with itself."""
    avm: Annotated[float, Field(ge=0)] = 0.0
    """Weight of audio-video matching (AVT's equation 5)."""
    negatives: Literal[1, 2] = 2
    """Wrong pairs per clip in matching."""
    other_class_negatives: bool = False
    """Whether wrong pairs are of different classes."""
    masked: Annotated[float, Field(ge=0)] = 0.0
    """Weight of reconstructing what is hidden (AVT's equation 6)."""
    mask: Literal["segments", "random"] = "segments"
    """What of the sound is hidden: whole audio segments (MASegm), or single tokens (MAV)."""

    balanced: Annotated[str | None, Field(pattern=r"^[1-9]\d*x[1-9]\d*$", examples=["8x4"])] = None
    """PxK: batches of P classes with K clips each, in place of batch_size."""
    modality_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How often a clip with both modalities is trained on with only one of them."""
    without: Literal["video", "audio"] | None = None
    """A modality that no clip has, in training and at test."""
    views: bool = True
    """Whether training draws among cached views (flips, temporal windows) of a clip."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products; auto is bfloat16 on a GPU that has it. Weights are float32."""

    @property
    def classes_and_clips(self) -> tuple[int, int] | None:
        """P and K of balanced batches."""
        if self.balanced is None:
            return None
        classes, _, clips = self.balanced.partition("x")
        return int(classes), int(clips)


def parse_settings(kind: type[SettingsType], given: Mapping[str, Any], whose: str, base: SettingsType) -> SettingsType:
    """`base` with the values given, as text or as they are. Raises UsageError that names the value and what may be."""
    try:
        return kind.model_validate({**base.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields) or "none"
            raise UsageError(f"{whose} has no setting '{name}': there are {known}") from error
        message = first["msg"][:1].lower() + first["msg"][1:]
        if first["type"] == "string_pattern_mismatch" and (examples := kind.model_fields[name].examples):
            message = f"write it like {examples[0]}"
        raise UsageError(f"{name}={given.get(name)}: {message} ({whose})") from error
