"""Feature specs: everything that determines a feature's bytes, and the key derived from it."""

import hashlib
import json
import math
import re
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from avfuse.features.media.sampling import frames_per_clip

KEY_DIGITS = 8
IMPORTED = "imported"
"""The source in the names of features that were computed elsewhere, as in `imported:i3d`."""

_NOT_IN_FOLDERS = re.compile(r"[^\w.-]+")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocess(_Frozen):
    """Preprocessing of pixels for a backbone: resize, centre crop, (pixel - mean) / std with pixel values 0-255."""

    #: the new length of the shorter side, or (height, width) without regard to the aspect ratio; None: no resizing
    resize: int | tuple[int, int] | None
    crop: int  #: side of the centre crop
    interpolation: Literal["bilinear", "bicubic", "lanczos"]  #: filter of the resizing
    antialias: bool = True  #: low-pass filter when shrinking; without it only the nearest pixels count
    #: rounding of the crop's half-pixel offsets: to even (torchvision) or down (transformers)
    centre: Literal["even", "before"] = "even"
    mean: tuple[float, float, float]  #: of red, green, blue
    std: tuple[float, float, float]  #: of red, green, blue

    @field_validator("std")
    @classmethod
    def _check_scale(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if max(std) < 1:
            raise ValueError(f"{std} is of pixels from 0 to 1: multiply mean and std by 255")
        return std

    @property
    def normalisation(self) -> "Preprocess":
        """The normalisation alone, for pixels that have their final size."""
        return Preprocess(resize=None, crop=self.crop, interpolation="bilinear", mean=self.mean, std=self.std)

    @property
    def geometry(self) -> "Preprocess":
        """Resizing and cropping alone, which determine the bytes that a decode worker makes."""
        return self.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})


class ReaderSpec(_Frozen):
    """The media reader."""

    name: str
    revision: int


class FramesInput(_Frozen):
    """Video frames: uint8 (T, crop, crop, 3), encoded one by one (`frames`) or as one clip (`clip`)."""

    kind: Literal["frames", "clip"] = "frames"
    reader: ReaderSpec
    sampling: str
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        side = self.preprocess.crop
        return (frames_per_clip(self.sampling), side, side, 3)


class ImageInput(_Frozen):
    """One audio image, rendered at (height, width): uint8 (height, width, 3), or for a backbone (crop, crop, 3)."""

    kind: Literal["image"] = "image"
    reader: ReaderSpec
    representation: str
    revision: int
    style: Literal["aligned", "paper"]
    height: int
    width: int
    preprocess: Preprocess | None

    @property
    def shape(self) -> tuple[int, ...]:
        if self.preprocess is None:
            return (self.height, self.width, 3)
        side = self.preprocess.crop
        return (side, side, 3)

    @property
    def as_drawn(self) -> "ImageInput":
        """The same image, without any backbone's preprocessing."""
        return self.model_copy(update={"preprocess": None})


class FilterBankInput(_Frozen):
    """AST's normalised log-mel filter bank (features/inputs/filter_bank.py): float32 (frames, bands)."""

    kind: Literal["filter_bank"] = "filter_bank"
    reader: ReaderSpec
    revision: int
    rate_hz: int
    frames: int
    bands: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.frames, self.bands)


class SoundInput(_Frozen):
    """The output of a network's own feature extractor for a clip's first `seconds`: float32 of any shape."""

    kind: Literal["sound"] = "sound"
    reader: ReaderSpec
    extractor: str  #: its configuration, as JSON
    rate_hz: int
    seconds: float
    shape: tuple[int, ...]


class ImportedInput(_Frozen):
    """Features that were computed elsewhere, without a reader, network or weights that avfuse could verify."""

    kind: Literal["imported"] = "imported"
    modality: Literal["video", "audio"]  #: in stage two
    description: str  #: the user's, of their origin
    reduce: str | None  #: reduction of each clip's rows (T, D) at import, in float64: `mean`, `uniform:N`, or None
    shape: tuple[int, ...]


AnyInput = FramesInput | ImageInput | FilterBankInput | SoundInput | ImportedInput


def preprocess_of(feature_input: AnyInput) -> Preprocess | None:
    """The preprocessing of an input's pixels; None for raw audio images and for sounds."""
    return feature_input.preprocess if isinstance(feature_input, FramesInput | ImageInput) else None


InputSpec = Annotated[AnyInput, Field(discriminator="kind")]
View = Literal["id", "h", "v", "hv"]
"""Mirroring of an image before it is encoded: none, left to right, top to bottom, or both."""

VIEWS: tuple[View, ...] = get_args(View)
Output = Literal["pooled", "frames", "tokens", "image", "filter_bank"]
Dtype = Literal["float16", "float32", "uint8"]
Precision = Literal["float32", "bfloat16", "float16"]
"""The type of a network's weights and activations."""


class ModelSpec(_Frozen):
    """A frozen network and its weights."""

    backbone: str
    revision: int
    checkpoint: str  #: SHA-256 of the weights file
    untrained: bool = False


class FeatureSpec(_Frozen):
    """One feature. Specs that differ in any field have different keys and never share rows."""

    name: str  #: as users type it, such as `lite:frames`
    input: InputSpec  #: what is encoded, or the feature itself if there is no model
    model: ModelSpec | None  #: None for a backbone's input itself and for imported features
    #: `pooled` (D,), `frames` (T, D), `tokens` (N, D) or (T, N, D); without a model `image` (H, W, 3) or `filter_bank`
    #: (T, bands)
    output: Output
    grid: tuple[int, ...] | None = None  #: layout of the last of the N tokens
    shape: tuple[int, ...]  #: of one clip's row
    dtype: Dtype = "float16"  #: of the stored rows
    compute: Precision | Literal["float64"] = "float32"  #: of the computation; of the reduction for imported features
    view: View = "id"  #: mirroring of the input

    @property
    def canonical_json(self) -> str:
        """The JSON that is hashed for the key: sorted, without spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """The first digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def folder(self) -> str:
        """The folder's name in a collection, without the colons and slashes of feature names."""
        return f"{folder_stem(self.name)}-{self.key}"

    @property
    def needs_audio(self) -> bool:
        """Whether clips without an audio stream cannot have it."""
        if isinstance(self.input, ImportedInput):
            return self.input.modality == "audio"
        return not isinstance(self.input, FramesInput)

    @property
    def imported(self) -> bool:
        """Whether it was computed elsewhere."""
        return isinstance(self.input, ImportedInput)

    @property
    def preprocess(self) -> Preprocess | None:
        """The preprocessing of the backbone's images; None for a backbone's input itself."""
        return preprocess_of(self.input)

    @property
    def untrained(self) -> bool:
        """Whether its weights are random."""
        return self.model is not None and self.model.untrained

    @property
    def bytes_per_clip(self) -> int:
        """The stored size of one row."""
        return math.prod(self.shape) * {"float16": 2, "float32": 4, "uint8": 1}[self.dtype]


def folder_stem(name: str) -> str:
    """The start of the folder names of all features of one name."""
    return _NOT_IN_FOLDERS.sub("--", name.replace(":", ".")).lstrip(".-")
