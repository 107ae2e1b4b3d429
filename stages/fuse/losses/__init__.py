"""Losses. One loss, one file."""

from avfuse.stages.fuse.losses.classification import binary_cross_entropy, cross_entropy, multi_target_loss

__all__ = ["binary_cross_entropy", "cross_entropy", "multi_target_loss"]
