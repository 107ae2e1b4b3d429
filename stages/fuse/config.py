"""Training recipes and options of heads, validated from text that a user types."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from avfuse.features.errors import UsageError


class Settings(BaseModel):
    """Base of recipes and options: validated, immutable named values that decide the outcome of training."""

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
    """Default training of a head, by AdamW with early stopping."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay; with 0 the optimiser is Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Clips per batch."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Maximum number of epochs."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without improvement on validation after which training stops."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the learning rate; cosine decays to 0 at `epochs`, whichever epoch is chosen."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps over which the learning rate rises from 0."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing of the classification loss."""
    l1: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the sum of `|W|` over linear layers."""
    avc: Annotated[float, Field(ge=0)] = 0.0
    """Weight of audio-video contrast (AVT's equation 2)."""
    imc: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the supervised contrast inside each modality (MMT)."""
    contrast_labels: bool = False
    """Whether every pair of one class is positive in audio-video contrast (MMT), not only a clip with itself."""
    avm: Annotated[float, Field(ge=0)] = 0.0
    """Weight of audio-video matching (AVT's equation 5)."""
    negatives: Literal[1, 2] = 2
    """Negatives per clip in matching."""
    other_class_negatives: bool = False
    """Whether negatives have another class."""
    masked: Annotated[float, Field(ge=0)] = 0.0
    """Weight of masked reconstruction (AVT's equation 6)."""
    mask: Literal["segments", "random"] = "segments"
    """Masking of sound: whole audio segments (MASegm), or single tokens (MAV)."""

    balanced: Annotated[str | None, Field(pattern=r"^[1-9]\d*x[1-9]\d*$", examples=["8x4"])] = None
    """PxK: batches of P classes with K clips each, in place of batch_size."""
    modality_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of clips with both modalities that lose one in training."""
    without: Literal["video", "audio"] | None = None
    """Modality that is dropped, in training and at test."""
    views: bool = True
    """Whether training draws cached views (flips, temporal windows) of a clip."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; auto is bfloat16 on a GPU that has it. Weights are float32."""

    @property
    def classes_and_clips(self) -> tuple[int, int] | None:
        """P and K of balanced batches."""
        if self.balanced is None:
            return None
        classes, _, clips = self.balanced.partition("x")
        return int(classes), int(clips)


def parse_settings(kind: type[SettingsType], given: Mapping[str, Any], whose: str, base: SettingsType) -> SettingsType:
    """Validate settings, as text or typed, over defaults.

    Args:
        kind: class of the settings.
        given: values by name.
        whose: their owner, for messages.
        base: defaults.

    Raises UsageError that names the value and what is valid.
    """
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
