"""Losses. One loss, one file."""

from avfuse.stages.fuse.losses.binary_cross_entropy import binary_cross_entropy
from avfuse.stages.fuse.losses.cross_entropy import cross_entropy
from avfuse.stages.fuse.losses.of_targets import loss_of_targets

__all__ = ["binary_cross_entropy", "cross_entropy", "loss_of_targets"]
