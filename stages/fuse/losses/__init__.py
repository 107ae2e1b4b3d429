"""Losses. One loss, one file."""

from avfuse.stages.fuse.losses.classification import binary_cross_entropy, cross_entropy, loss_of_targets

__all__ = ["binary_cross_entropy", "cross_entropy", "loss_of_targets"]
