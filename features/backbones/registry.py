"""The list of backbones, each described by one small record."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from avfuse.features.backbones.weights import Checkpoint
from avfuse.features.errors import UsageError
from avfuse.features.plugins import run_own_files
from avfuse.features.spec import Preprocess
from avfuse.moved_modules import renamed

if TYPE_CHECKING:
    from torch import Tensor, nn

InputKind = Literal["frames", "image", "clip", "fbank", "sound"]
"""What a network takes at once: each of a clip's frames on its own, an audio image, frames together, AST's filter bank,
what its own feature extractor makes of samples."""

StateDict = Mapping[str, Any]


class Encoded(NamedTuple):
    """What a network makes of a batch: pooled (B, D), and where it has them, tokens (B, prefix + grid's cells, D)."""

    pooled: "Tensor"
    tokens: "Tensor | None" = None


@dataclass(frozen=True)
class Grid:
    """How tokens are laid out: `prefix` tokens of their own (CLS, distillation), then the cells of `cells`, row by row.

    pooled: how many of its dimensions, from the first, are averaged when fewer cells are asked for.
    """

    cells: tuple[int, ...]
    prefix: int = 0
    pooled: int = 2


@dataclass(frozen=True)
class SoundExtractor:
    """What a network of transformers wants to hear. extractor: its feature extractor's configuration, as JSON; shape:
    what that makes of a sound of any length."""

    extractor: str
    rate_hz: int
    seconds: float
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen encoder: what goes in, what comes out, with which weights.

    make: the network with untrained weights. encode: what it makes of a batch: normalised pictures float (B, 3, H, W),
    clips (B, T, 3, H, W), or filter banks (B, 1024, 128). grid: its tokens' layout for an item of a shape, (H, W),
    (T, H, W) or (bands, time); None: it gives no tokens. frame_counts: how many frames a clip must have.
    checkpoints: the published weights, the default first. translate: from a checkpoint's layout to the network's own.
    read: where a library reads its own checkpoints, that; it raises UsageError for a file that is none of them.
    finish: what is done to the loaded network, such as folding batch norms. sound: for networks that take `sound`.
    revision: raised when its golden test moves, that is when the same input gives other numbers.
    """

    name: str
    revision: int
    inputs: tuple[InputKind, ...]
    feature_dim: int
    preprocess: Preprocess | None
    checkpoints: tuple[Checkpoint, ...]
    make: Callable[[], "nn.Module"]
    encode: Callable[[Any, "Tensor"], Encoded]
    grid: Callable[[tuple[int, ...]], Grid] | None = None
    frame_counts: tuple[int, ...] = ()
    sampling: str = "uniform:25"
    translate: Callable[[StateDict], StateDict] = dict
    read: "Callable[[Path], nn.Module] | None" = None
    finish: Callable[[Any], "nn.Module"] = lambda network: network
    sound: SoundExtractor | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The default one. Raises UsageError where none is published."""
        if not self.checkpoints:
            raise UsageError(f"no weights are published for {self.name}: name a file (--weights {self.name}=FILE)")
        return self.checkpoints[0]


def from_feature_map(activations: "Tensor") -> Encoded:
    """A convolutional network's last map (B, D, H, W): its mean, and its cells row by row as tokens."""
    return Encoded(activations.mean(dim=(2, 3)), activations.flatten(2).transpose(1, 2))


def feature_map_grid(shape: tuple[int, ...]) -> Grid:
    """The last map of a network that halves its picture five times."""
    height, width = shape
    return Grid((height // 32, width // 32))


_BACKBONES: dict[str, Backbone] = {}
OWN_FILES, ENTRY_POINTS = "AVFUSE_BACKBONES", "avfuse.backbones"


def register(backbone: Backbone) -> Backbone:
    """Raises UsageError for a name that is taken, or that features' names have no room for."""
    if backbone.name in _BACKBONES or not re.fullmatch(r"\w+", backbone.name):
        raise UsageError(f"a backbone cannot be called '{backbone.name}': the name is taken, or no plain word")
    _BACKBONES[backbone.name] = backbone
    return backbone


ADAPTERS = {"timm": "adapters.timm", "torchvision": "adapters.torchvision", "hf": "adapters.transformers"}
"""Prefixes of names, as in `timm:resnet50`, that mean any network of a library, and the modules that adapt one."""


def is_adapted(name: str) -> bool:
    """Whether a name means a library's network."""
    return name.partition(":")[0] in ADAPTERS and ":" in name


def unknown_backbone_message(name: str, known: Sequence[str]) -> str:
    """What is said of a name that no backbone has."""
    libraries = ", ".join(f"{prefix}:NAME" for prefix in ADAPTERS)
    return (
        f"unknown backbone '{name}': choose from {', '.join(known)}, {libraries}, or one of your own: "
        "AVFUSE_BACKBONES=FILE.py (docs/add-a-backbone.md)"
    )


def get_backbone(name: str) -> Backbone:
    """The backbone of that name. Raises UsageError that lists the known ones."""
    if is_adapted(name):
        return _adapt(name)
    if name not in list_backbones():
        raise UsageError(unknown_backbone_message(name, list_backbones()))
    return _BACKBONES[name]


@lru_cache
def _adapt(name: str) -> Backbone:
    prefix, _, theirs = name.partition(":")
    module = import_module(f"avfuse.features.backbones.{ADAPTERS[prefix]}")
    backbone: Backbone = module.adapt(theirs)
    return backbone


def list_backbones() -> list[str]:
    """Every registered backbone, users' own among them. Raises UsageError for a user's file that cannot be used."""
    _register_users_own()
    return sorted(_BACKBONES)


@lru_cache
def _register_users_own() -> None:
    """Backbones of installed packages that name them as entry points of the group `avfuse.backbones`, and of the Python
    files in AVFUSE_BACKBONES."""
    for point in entry_points(group=ENTRY_POINTS):
        loaded = point.load()
        if isinstance(loaded, Backbone) and loaded.name not in _BACKBONES:
            register(loaded)
    run_own_files(OWN_FILES)


_RENAMED = {
    "get": "get_backbone",
    "map_grid": "feature_map_grid",
    "names": "list_backbones",
    "of_map": "from_feature_map",
    "unknown": "unknown_backbone_message",
}
if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, _RENAMED)
