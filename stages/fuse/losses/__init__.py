"""Losses. One loss, one file."""

from stages.fuse.losses.cross_entropy import cross_entropy

__all__ = ["cross_entropy"]
