"""Frozen encoders. Importing this package registers every backbone; `get("lite")` finds one."""

from avfuse.features.backbones import ast, lite, picture_networks, timesformer, tsn, video_networks  # noqa: F401  (they register themselves)
from avfuse.features.backbones.registry import (
    ADAPTERS,
    Backbone,
    Encoded,
    Grid,
    get,
    is_adapted,
    names,
    register,
    unknown,
)
from avfuse.features.backbones.weights import Checkpoint, Local, Weights, WeightsChoice
from avfuse.features.spec import Preprocess

__all__ = [
    "ADAPTERS",
    "Backbone",
    "Checkpoint",
    "Encoded",
    "Grid",
    "Local",
    "Preprocess",
    "Weights",
    "WeightsChoice",
    "get",
    "is_adapted",
    "names",
    "register",
    "unknown",
]
