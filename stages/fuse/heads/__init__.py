"""Fusion heads. One head, one file; importing this package registers them all."""

from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.heads import (  # noqa: F401  (each registers itself)
    alpha,
    audio,
    average,
    bottleneck,
    crossattn,
    logreg,
    mat,
    mat_lite,
    mlp,
    mmt,
    svc,
    video,
)
from avfuse.stages.fuse.heads.base import Head, build_head, get_head, head_names, register_head

__all__ = ["Head", "ModalityShape", "build_head", "get_head", "head_names", "register_head"]
