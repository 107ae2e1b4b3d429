"""Cross-attention between video and audio: MAiVAR-T (arXiv 2308.03741), with sizes of our own."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.blocks import Attention, FeedForward, TokenProjection, TransformerOptions

_OTHER = {"video": "audio", "audio": "video"}


class CrossAttentionOptions(TransformerOptions):
    """Number of layers, and their direction."""

    layers: Annotated[int, Field(ge=0)] = 1
    """0: no cross-attention, each modality is only projected and pooled."""
    reads: Literal["both", "video", "audio"] = "both"
    """Modality that attends to the other; one that does not stays as it is."""


class _Layer(nn.Module):
    """V' = V + MHA(LN V, LN A) and A' = A + MHA(LN A, LN V), both from the layer's input, with separate weights;
    then a feed-forward net each. {name: (B, T, d)} -> the same."""

    def __init__(self, options: CrossAttentionOptions) -> None:
        super().__init__()
        dim = options.dim
        names = ("video", "audio") if options.reads == "both" else (options.reads,)
        self.norm = nn.ModuleDict({name: nn.LayerNorm(dim) for name in ("video", "audio")})
        self.attend = nn.ModuleDict({name: Attention(dim, options.heads, options.dropout) for name in names})
        self.feed = nn.ModuleDict({name: FeedForward(dim, options.dropout) for name in names})

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        normed = {name: self.norm[name](x) for name, x in streams.items()}
        after = dict(streams)
        for name in self.attend:
            read = streams[name] + self.attend[name](normed[name], normed[_OTHER[name]])
            after[name] = read + self.feed[name](read)
        return after


@register_head(
    "crossattn", modalities=("video", "audio"), summary="one bidirectional cross-attention layer over tokens"
)
class CrossAttention(Head):
    """Frames and audio images attend to each other; [V' ; A'] -> LN -> Linear, of each stream its CLS where it has one,
    else the mean."""

    class Options(CrossAttentionOptions):
        """Sizes, layers, directions."""

    recipe = Recipe(lr=1e-3, weight_decay=5e-2, batch_size=32, epochs=40, patience=6)

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: CrossAttentionOptions) -> None:
        super().__init__(shapes, targets)
        self.project = TokenProjection(self.shapes, options.dim)
        self.layers = nn.ModuleList(_Layer(options) for _ in range(options.layers))
        self.classifier = nn.Sequential(nn.LayerNorm(2 * options.dim), nn.Linear(2 * options.dim, targets.width))

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        streams = self.project(self.fill_missing(prepared, present))
        outputs = {f"before_{name}": self.shapes[name].pool(x) for name, x in streams.items()}
        for layer in self.layers:
            streams = layer(streams)
        pooled = {name: self.shapes[name].pool(x) for name, x in streams.items()}
        outputs |= {f"after_{name}": x for name, x in pooled.items()} | {f"tokens_{n}": x for n, x in streams.items()}
        return {"logits": self.classifier(torch.cat([pooled["video"], pooled["audio"]], dim=1)), **outputs}
