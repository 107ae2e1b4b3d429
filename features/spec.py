"""Everything that decides a feature's bytes, and the key that proves it."""

import hashlib
import json
import math
import re
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from avfuse.features.media.sampling import frames_per_clip

KEY_DIGITS = 8
IMPORTED = "imported"
"""The source in the name of a feature that was computed elsewhere, as in `imported:i3d`."""

_UNFIT = re.compile(r"[^\w.-]+")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocess(_Frozen):
    """From pixels to a backbone's input: resized, centre crop, (pixel - mean) / std with pixel values 0-255.

    resize: the shorter side's new length, or (height, width) whatever that does to the shapes in it; None: as it is.
    antialias: whether the filter widens where a picture shrinks; without it, only the nearest points count. centre:
    where half a pixel is left over, the crop begins at the even one (torchvision) or the one before (transformers).
    """

    resize: int | tuple[int, int] | None
    crop: int
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    antialias: bool = True
    centre: Literal["even", "before"] = "even"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @field_validator("std")
    @classmethod
    def _check_scale(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if max(std) < 1:
            raise ValueError(f"{std} is of pixels from 0 to 1: multiply mean and std by 255")
        return std

    @property
    def normalisation(self) -> "Preprocess":
        """The same for pixels that have their size already."""
        return Preprocess(resize=None, crop=self.crop, interpolation="bilinear", mean=self.mean, std=self.std)

    @property
    def geometry(self) -> "Preprocess":
        """The same without mean and std: what decides the bytes that a network gets."""
        return self.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})


class ReaderSpec(_Frozen):
    name: str
    revision: int


class FramesInput(_Frozen):
    """Video frames: uint8 (T, crop, crop, 3), seen one by one (`frames`) or together (`clip`)."""

    kind: Literal["frames", "clip"] = "frames"
    reader: ReaderSpec
    sampling: str
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        side = self.preprocess.crop
        return (frames_per_clip(self.sampling), side, side, 3)


class ImageInput(_Frozen):
    """One audio image, drawn at (height, width): uint8 (height, width, 3) as it is, or (crop, crop, 3), the whole of it
    resized where it was drawn at another size, when a backbone is to take it."""

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
        """The same picture, before any backbone's preprocessing."""
        return self.model_copy(update={"preprocess": None})


class FilterBankInput(_Frozen):
    """AST's normalised log-mel filter bank (features/filter_bank.py): float32 (frames, bands)."""

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
    """What a network's own feature extractor makes of a clip's first `seconds`: float32 of any shape. extractor: its
    configuration as JSON."""

    kind: Literal["sound"] = "sound"
    reader: ReaderSpec
    extractor: str
    rate_hz: int
    seconds: float
    shape: tuple[int, ...]


class ImportedInput(_Frozen):
    """Numbers that were computed elsewhere. How is known from `description` alone: no reader, network or weights are
    named that nobody here has seen.

    modality: what they stand for in stage two. reduce: what was made of each clip's rows (T, D) when they were brought,
    `mean` or `uniform:N`, in float64; None: nothing.
    """

    kind: Literal["imported"] = "imported"
    modality: Literal["video", "audio"]
    description: str
    reduce: str | None
    shape: tuple[int, ...]


AnyInput = FramesInput | ImageInput | FilterBankInput | SoundInput | ImportedInput


def preprocess_of(taken: AnyInput) -> Preprocess | None:
    """How an input's pixels are prepared; None for pictures as they are drawn and for sounds."""
    return taken.preprocess if isinstance(taken, FramesInput | ImageInput) else None


InputSpec = Annotated[AnyInput, Field(discriminator="kind")]
View = Literal["id", "h", "v", "hv"]
"""How a picture is turned before a backbone sees it: as it is, mirrored left to right, top to bottom, or both."""

VIEWS: tuple[View, ...] = get_args(View)
Output = Literal["pooled", "frames", "tokens", "image", "filter_bank"]
Dtype = Literal["float16", "float32", "uint8"]
Precision = Literal["float32", "bfloat16", "float16"]
"""What a network's weights and activations are."""


class ModelSpec(_Frozen):
    """Which frozen network, with which weights. `checkpoint` is the SHA-256 of the weights' file."""

    backbone: str
    revision: int
    checkpoint: str
    untrained: bool = False


class FeatureSpec(_Frozen):
    """One feature. Two specs that differ in anything have different keys and never share rows.

    `name` is what users type (`lite:frames`); `output` is `pooled` (D,), `frames` (T, D) or `tokens` (N, D) or
    (T, N, D), or with no `model` the input itself, `image` (H, W, 3) or `filter_bank` (T, bands); `grid` is how the
    last of the N tokens are laid out; `dtype` is how rows are stored, `compute` how they were computed. What was
    imported has no `model` either, and its `compute` is that of the reduction alone.
    """

    name: str
    input: InputSpec
    model: ModelSpec | None
    output: Output
    grid: tuple[int, ...] | None = None
    shape: tuple[int, ...]
    dtype: Dtype = "float16"
    compute: Precision | Literal["float64"] = "float32"
    view: View = "id"

    @property
    def canonical_json(self) -> str:
        """Sorted and without spaces: what the key is a hash of."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """The first digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def folder(self) -> str:
        """The folder's name in a collection's cache; colons and slashes are for names, not for file systems."""
        return f"{folder_stem(self.name)}-{self.key}"

    @property
    def needs_audio(self) -> bool:
        if isinstance(self.input, ImportedInput):
            return self.input.modality == "audio"
        return not isinstance(self.input, FramesInput)

    @property
    def imported(self) -> bool:
        """Whether it was computed elsewhere."""
        return isinstance(self.input, ImportedInput)

    @property
    def preprocess(self) -> Preprocess | None:
        """How the backbone's images are prepared; None for a backbone's input itself."""
        return preprocess_of(self.input)

    @property
    def untrained(self) -> bool:
        """Whether it comes from random weights."""
        return self.model is not None and self.model.untrained

    @property
    def bytes_per_clip(self) -> int:
        """Of one row, as it is stored."""
        return math.prod(self.shape) * {"float16": 2, "float32": 4, "uint8": 1}[self.dtype]


def folder_stem(name: str) -> str:
    """What the folders of all features of one name begin with."""
    return _UNFIT.sub("--", name.replace(":", ".")).lstrip(".-")
