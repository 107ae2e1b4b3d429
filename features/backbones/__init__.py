"""Frozen encoders. Importing this package registers every backbone; `get_backbone("lite")` returns one."""

from typing import TYPE_CHECKING

from avfuse.features.backbones.models import (
    ast,  # noqa: F401
    image_models,  # noqa: F401
    lite,  # noqa: F401
    timesformer,  # noqa: F401
    tsn,  # noqa: F401
    video_models,  # noqa: F401
)
from avfuse.features.backbones.registry import (
    ADAPTERS,
    Backbone,
    Encoded,
    Grid,
    get_backbone,
    is_adapted,
    list_backbones,
    register,
    unknown_backbone_message,
)
from avfuse.features.backbones.weights import Checkpoint, LocalFile, Weights, WeightsChoice
from avfuse.features.spec import Preprocess
from avfuse.moved_modules import renamed

__all__ = [
    "ADAPTERS",
    "Backbone",
    "Checkpoint",
    "Encoded",
    "Grid",
    "LocalFile",
    "Preprocess",
    "Weights",
    "WeightsChoice",
    "get_backbone",
    "is_adapted",
    "list_backbones",
    "register",
    "unknown_backbone_message",
]

_RENAMED = {
    "Local": "LocalFile",
    "get": "get_backbone",
    "names": "list_backbones",
    "unknown": "unknown_backbone_message",
}
if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, _RENAMED)
