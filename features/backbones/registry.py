"""The list of backbones, each described by one small record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from features.backbones.weights import Checkpoint
from features.errors import UsageError
from features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

InputKind = Literal["frames", "image", "clip", "fbank"]
"""What a network sees at once: each of a clip's frames on its own, an audio image, frames together, a filter bank."""

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


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen encoder: what goes in, what comes out, with which weights.

    make: the network with untrained weights. encode: what it makes of a batch: normalised pictures float (B, 3, H, W),
    clips (B, T, 3, H, W), or filter banks (B, 1024, 128). grid: its tokens' layout for an item of a shape, (H, W),
    (T, H, W) or (bands, time); None: it gives no tokens. frame_counts: how many frames a clip must have.
    checkpoints: the published weights, the default first. translate: from a checkpoint's layout to the network's own.
    read: where a library reads its own checkpoints, that; it raises UsageError for a file that is none of them.
    finish: what is done to the loaded network, such as folding batch norms.
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

    @property
    def checkpoint(self) -> Checkpoint:
        return self.checkpoints[0]


def of_map(activations: "Tensor") -> Encoded:
    """A convolutional network's last map (B, D, H, W): its mean, and its cells row by row as tokens."""
    return Encoded(activations.mean(dim=(2, 3)), activations.flatten(2).transpose(1, 2))


def map_grid(shape: tuple[int, ...]) -> Grid:
    """The last map of a network that halves its picture five times."""
    height, width = shape
    return Grid((height // 32, width // 32))


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
