"""Losses. One loss, one file."""

from typing import TYPE_CHECKING

from avfuse.moved_modules import renamed
from avfuse.stages.fuse.losses.classification import binary_cross_entropy, cross_entropy, multi_target_loss

__all__ = ["binary_cross_entropy", "cross_entropy", "multi_target_loss"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"loss_of_targets": "multi_target_loss"})
