"""Frozen encoders. Importing this package registers every backbone; `get("lite")` finds one."""

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
