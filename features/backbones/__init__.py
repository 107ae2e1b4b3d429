"""Frozen encoders. Importing this package registers every backbone; `get("lite")` finds one."""

from features.backbones import lite  # noqa: F401  (registers itself)
from features.backbones.registry import Backbone, Checkpoint, Encoder, get, names

__all__ = ["Backbone", "Checkpoint", "Encoder", "get", "names"]
