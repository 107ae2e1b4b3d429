"""The registry of backbones, one record each."""

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
from avfuse.features.plugins import run_plugin_files
from avfuse.features.spec import Preprocess
from avfuse.moved_modules import renamed

if TYPE_CHECKING:
    from torch import Tensor, nn

InputKind = Literal["frames", "image", "clip", "fbank", "sound"]
"""Input of a network: single frames, an audio image, several frames at once, AST's filter bank, or the output of its
own audio feature extractor."""

StateDict = Mapping[str, Any]


class Encoded(NamedTuple):
    """A network's output for a batch."""

    pooled: "Tensor"  #: (B, D)
    tokens: "Tensor | None" = None  #: (B, prefix + cells of the grid, D), for networks that have them


@dataclass(frozen=True)
class Grid:
    """The layout of tokens: prefix tokens, then the cells of a grid in row-major order."""

    cells: tuple[int, ...]  #: the grid's size along each dimension
    prefix: int = 0  #: tokens before the grid (CLS, distillation)
    pooled: int = 2  #: leading dimensions of the grid that are averaged when a coarser grid is requested


@dataclass(frozen=True)
class SoundExtractor:
    """The audio feature extractor of a network of transformers."""

    extractor: str  #: its configuration, as JSON
    rate_hz: int  #: sample rate of its input
    seconds: float  #: longest input; the rest of a clip is cut off
    shape: tuple[int, ...]  #: shape of its output, whatever the input's length


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen encoder: its inputs, outputs and published weights."""

    name: str  #: a plain word, as users type it
    revision: int  #: raise it when the same input gives other numbers; part of the feature's key
    inputs: tuple[InputKind, ...]  #: what it takes: `frames`, `image`, `clip`, `fbank`, `sound`
    feature_dim: int  #: D, the width of its pooled output and of its tokens
    preprocess: Preprocess | None  #: how its images are resized, cropped and normalised; None: it takes no images
    checkpoints: tuple[Checkpoint, ...]  #: published weights, the default first
    make: Callable[[], "nn.Module"]  #: builds the network with untrained weights
    #: network, normalised batch -> output. Batches are images (B, 3, H, W), clips (B, T, 3, H, W) or filter banks
    #: (B, 1024, 128), all float
    encode: Callable[[Any, "Tensor"], Encoded]
    #: shape of one input, (H, W), (T, H, W) or (bands, time) -> layout of its tokens; None: it gives no tokens
    grid: Callable[[tuple[int, ...]], Grid] | None = None
    frame_counts: tuple[int, ...] = ()  #: frames that a clip may have; empty: any number
    sampling: str = "uniform:25"  #: default sampling of the frames of a `clip` input
    translate: Callable[[StateDict], StateDict] = dict  #: a checkpoint's tensor names -> the network's
    #: loads a checkpoint in place of `make` and `translate`; raises UsageError for a file of another layout
    read: "Callable[[Path], nn.Module] | None" = None
    finish: Callable[[Any], "nn.Module"] = lambda network: network  #: applied once loaded, such as batch-norm folding
    sound: SoundExtractor | None = None  #: the extractor of `sound` inputs

    @property
    def checkpoint(self) -> Checkpoint:
        """The default checkpoint. Raises UsageError if none is published."""
        if not self.checkpoints:
            raise UsageError(f"no weights are published for {self.name}: name a file (--weights {self.name}=FILE)")
        return self.checkpoints[0]


def from_feature_map(activations: "Tensor") -> Encoded:
    """The output for a convolutional network's last feature map (B, D, H, W): its mean, and its cells as tokens."""
    return Encoded(activations.mean(dim=(2, 3)), activations.flatten(2).transpose(1, 2))


def feature_map_grid(shape: tuple[int, ...]) -> Grid:
    """The grid of the last feature map of a network with a total stride of 32."""
    height, width = shape
    return Grid((height // 32, width // 32))


_BACKBONES: dict[str, Backbone] = {}
PLUGIN_FILES, ENTRY_POINTS = "AVFUSE_BACKBONES", "avfuse.backbones"


def register(backbone: Backbone) -> Backbone:
    """Add a backbone. Raises UsageError for a name that is taken, or that is not one plain word."""
    if backbone.name in _BACKBONES or not re.fullmatch(r"\w+", backbone.name):
        raise UsageError(f"a backbone cannot be called '{backbone.name}': the name is taken, or not one plain word")
    _BACKBONES[backbone.name] = backbone
    return backbone


ADAPTERS = {"timm": "adapters.timm", "torchvision": "adapters.torchvision", "hf": "adapters.transformers"}
"""Prefixes of library networks, as in `timm:resnet50`, and the modules that adapt them."""


def is_adapted(name: str) -> bool:
    """Whether a name is that of a library's network."""
    return name.partition(":")[0] in ADAPTERS and ":" in name


def unknown_backbone_message(name: str, known: Sequence[str]) -> str:
    """The error message for an unknown name."""
    libraries = ", ".join(f"{prefix}:NAME" for prefix in ADAPTERS)
    return (
        f"unknown backbone '{name}': choose from {', '.join(known)}, {libraries}, or one of your own: "
        "AVFUSE_BACKBONES=FILE.py (docs/add-a-backbone.md)"
    )


def get_backbone(name: str) -> Backbone:
    """The backbone of a name. Raises UsageError for an unknown one, listing those there are."""
    if is_adapted(name):
        return _adapt(name)
    if name not in list_backbones():
        raise UsageError(unknown_backbone_message(name, list_backbones()))
    return _BACKBONES[name]


@lru_cache
def _adapt(name: str) -> Backbone:
    prefix, _, library_name = name.partition(":")
    module = import_module(f"avfuse.features.backbones.{ADAPTERS[prefix]}")
    backbone: Backbone = module.adapt(library_name)
    return backbone


def list_backbones() -> list[str]:
    """The names of all registered backbones, plug-ins included. Raises UsageError for a plug-in file that fails."""
    _register_plugins()
    return sorted(_BACKBONES)


@lru_cache
def _register_plugins() -> None:
    """Register plug-ins: entry points of the group `avfuse.backbones`, and the Python files in AVFUSE_BACKBONES."""
    for point in entry_points(group=ENTRY_POINTS):
        plugin = point.load()
        if isinstance(plugin, Backbone) and plugin.name not in _BACKBONES:
            register(plugin)
    run_plugin_files(PLUGIN_FILES)


_RENAMED = {
    "get": "get_backbone",
    "map_grid": "feature_map_grid",
    "names": "list_backbones",
    "of_map": "from_feature_map",
    "unknown": "unknown_backbone_message",
}
if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, _RENAMED)
