"""Everything that decides a feature's bytes, and the key that proves it."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from features.media.sampling import frames_per_clip

KEY_DIGITS = 8


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocess(_Frozen):
    """From pixels to a backbone's input: short side to `resize` (None: as is), centre crop, (pixel - mean) / std with
    pixel values 0-255."""

    resize: int | None
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ReaderSpec(_Frozen):
    name: str
    revision: int


class FramesInput(_Frozen):
    """Video frames: uint8 (T, crop, crop, 3)."""

    kind: Literal["frames"] = "frames"
    reader: ReaderSpec
    sampling: str
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        side = self.preprocess.crop
        return (frames_per_clip(self.sampling), side, side, 3)


class ImageInput(_Frozen):
    """One audio image: uint8 (crop, crop, 3)."""

    kind: Literal["image"] = "image"
    reader: ReaderSpec
    representation: str
    revision: int
    style: Literal["aligned"] = "aligned"
    height: int
    width: int
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        side = self.preprocess.crop
        return (side, side, 3)


InputSpec = Annotated[FramesInput | ImageInput, Field(discriminator="kind")]


class ModelSpec(_Frozen):
    """Which frozen network, with which weights. `checkpoint` is the SHA-256 of the weights' file."""

    backbone: str
    revision: int
    checkpoint: str
    untrained: bool = False


class FeatureSpec(_Frozen):
    """One feature. Two specs that differ in anything have different keys and never share rows.

    `name` is what users type (`lite:frames`); `output` is `pooled` (D,) or `frames` (T, D); `dtype` is how rows are
    stored, `compute` how they were computed.
    """

    name: str
    input: InputSpec
    model: ModelSpec
    output: Literal["pooled", "frames"]
    shape: tuple[int, ...]
    dtype: Literal["float16", "float32"] = "float16"
    compute: Literal["float32"] = "float32"
    view: Literal["id"] = "id"

    @property
    def canonical_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """The first digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def folder(self) -> str:
        """The folder's name in a collection's cache; colons are for names, not for file systems."""
        return f"{self.name.replace(':', '.')}-{self.key}"

    @property
    def needs_audio(self) -> bool:
        return self.input.kind == "image"

    @property
    def bytes_per_clip(self) -> int:
        size = 2 if self.dtype == "float16" else 4
        for length in self.shape:
            size *= length
        return size
