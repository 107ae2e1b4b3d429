"""The alpha-transformer of "Is Spatial-Temporal-Audio Attention All You Need": one modality is rescaled, then both are
concatenated."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.blocks import MlpOptions, mlp

Transform = Literal["none", "sqrt", "sqrt_relu", "scalar"]


class AlphaOptions(MlpOptions):
    """The transform and its modality, and sizes, the paper's."""

    hidden: Annotated[str, Field(pattern=r"^[1-9]\d*(x[1-9]\d*)*$", examples=["1024x512"])] = "1024x512"
    """Widths of hidden layers, joined by x."""
    transform: Transform = "none"
    """See `alpha.transform`."""
    alpha: Annotated[float, Field(gt=0)] = 1.5
    """Factor of transform=scalar: the paper's pos_scalar is 1.5 (2 in its released code), its neg_scalar 0.75."""
    side: Literal["video", "audio"] = "video"
    """The transformed modality."""


@register_head(
    "alpha", modalities=("video", "audio"), summary="CLS vectors of both, one of them rescaled, concatenated, MLP"
)
class AlphaTransformer(Head):
    """[video ; audio], one of them transformed -> MLP -> logits. Each modality is one vector (see
    `ModalityShape.pool`): CLS of TimeSformer, (CLS + distillation) / 2 of AST in the paper.

    Features are taken as they are cached: standardisation would undo a scalar. The learned token of a missing modality
    is not transformed.
    """

    recipe = Recipe(lr=1e-4, weight_decay=0, batch_size=8, epochs=25, patience=25)

    class Options(AlphaOptions):
        """Transform, its alpha, its side, sizes."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: AlphaOptions) -> None:
        super().__init__(shapes, targets, dict.fromkeys(shapes, "pooled"), unstandardised=tuple(shapes))
        self.options = options
        self.classifier = mlp(sum(self.input(name).width for name in shapes), targets.width, options)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        rescaled = dict(prepared)
        rescaled[self.options.side] = transform(prepared[self.options.side], self.options.transform, self.options.alpha)
        inputs = self.fill_missing(rescaled, present)
        return {"logits": self.classifier(torch.cat([inputs["video"], inputs["audio"]], dim=1))}


def transform(x: Tensor, name: Transform, alpha: float = 1.5) -> Tensor:
    """Transform x elementwise, in any shape.

    name: `none`; `sqrt`, sign(x) sqrt|x|, as the paper does not define roots of negative values; `sqrt_relu`,
    sqrt(max(x, 0)), as in its released code; `scalar`, alpha x.
    """
    if name == "sqrt":
        return _root(x) - _root(-x)
    if name == "sqrt_relu":
        return _root(x)
    return alpha * x if name == "scalar" else x


def _root(x: Tensor) -> Tensor:
    """sqrt(max(x, 0)), with gradient 0, not infinite, at x = 0."""
    flat = x <= 0
    return torch.where(flat, 1, x).sqrt().masked_fill(flat, 0)
