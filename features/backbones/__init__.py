"""Frozen encoders. Importing this package registers every backbone; `get("lite")` finds one."""

from features.backbones import ast, lite, picture_networks, timesformer, tsn, video_networks  # noqa: F401  (they register themselves)
from features.backbones.registry import Backbone, Encoded, Grid, get, names
from features.backbones.weights import Checkpoint, Weights, WeightsChoice

__all__ = ["Backbone", "Checkpoint", "Encoded", "Grid", "Weights", "WeightsChoice", "get", "names"]
