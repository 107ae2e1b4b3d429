"""The list of backbones, each described by one small record."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from features.errors import UsageError
from features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

InputKind = Literal["frames", "image"]
Encoder = Callable[["Tensor", Preprocess], "Tensor"]
"""A loaded network: uint8 (B, H, W, 3), and how its values are to be normalised -> float32 (B, D) on its device."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A weights file: where it is, what it must hash to, under which licence it may be used."""

    name: str
    sha256: str
    licence: str
    locate: Callable[[], Path]

    def verified_path(self) -> Path:
        """The file, after its bytes were found to be the named ones.

        Raises UsageError when it is missing or another file.
        """
        path = self.locate()
        if not path.is_file():
            raise UsageError(f"the weights '{self.name}' are not at {path}: reinstall the package that brings them")
        if _sha256(path) != self.sha256:
            raise UsageError(f"{path} is not the checkpoint '{self.name}' (its SHA-256 differs): reinstall it")
        return path


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen encoder of images: what goes in, what comes out, with which weights.

    `revision` is raised when its golden test moves, that is when the same input gives other numbers.
    """

    name: str
    revision: int
    inputs: tuple[InputKind, ...]
    feature_dim: int
    preprocess: Preprocess
    checkpoint: Checkpoint
    build: Callable[[Path, str], Encoder]  # (checkpoint file, device) -> encoder

    def load(self, device: str) -> Encoder:
        return self.build(self.checkpoint.verified_path(), device)


_BACKBONES: dict[str, Backbone] = {}


def register(backbone: Backbone) -> Backbone:
    if backbone.name in _BACKBONES:
        raise ValueError(f"backbone '{backbone.name}' is registered twice")
    _BACKBONES[backbone.name] = backbone
    return backbone


def get(name: str) -> Backbone:
    """The backbone of that name. Raises UsageError that lists the known ones."""
    if name not in _BACKBONES:
        raise UsageError(f"unknown backbone '{name}': choose from {', '.join(names())}")
    return _BACKBONES[name]


def names() -> list[str]:
    return sorted(_BACKBONES)


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
