"""`timesformer`: divided space-time attention over 8 frames.

Bertasius, Wang, Torresani, "Is Space-Time Attention All You Need for Video Understanding?" (2021), as implemented
in transformers. Tokens: CLS, then 14 x 14 patches of 8 frames, time running fastest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avfuse.features.backbones.adapters.transformers_checkpoints import (
    VISION_RULES,
    rename_tensors,
    transformers_maker,
    transformers_reader,
)
from avfuse.features.backbones.registry import Backbone, Encoded, Grid, StateDict, register
from avfuse.features.backbones.weights import Checkpoint, Hub, Url
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

_MEAN, _STD = (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)
_RULES = {
    r"time_embed": "embeddings.time_embeddings",
    r"blocks\.(\d+)\.attn\.qkv\.": r"encoder.layer.\1.attention.attention.qkv.",
    r"blocks\.(\d+)\.temporal_norm1\.": r"encoder.layer.\1.temporal_layernorm.",
    r"blocks\.(\d+)\.temporal_attn\.qkv\.": r"encoder.layer.\1.temporal_attention.attention.qkv.",
    r"blocks\.(\d+)\.temporal_attn\.proj\.": r"encoder.layer.\1.temporal_attention.output.dense.",
    r"blocks\.(\d+)\.temporal_fc\.": r"encoder.layer.\1.temporal_dense.",
    **VISION_RULES,
}


def _translate(state: StateDict) -> StateDict:
    """Translate the authors' layout: timm's names after `model.`."""
    if "model.cls_token" not in state:
        return state
    bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return rename_tensors(bare, _RULES, drop=r"head\.")


def _encode(network: Any, clips: Tensor) -> Encoded:
    tokens = network(clips).last_hidden_state
    return Encoded(tokens[:, 0], tokens)


TIMESFORMER = register(
    Backbone(
        name="timesformer",
        revision=1,
        inputs=("clip",),
        feature_dim=768,
        preprocess=Preprocess(resize=224, crop=224, interpolation="bilinear", centre="before", mean=_MEAN, std=_STD),
        checkpoints=(
            Checkpoint(
                name="timesformer-k400",
                file="timesformer-base-finetuned-k400.bin",
                licence="CC-BY-NC-4.0",
                non_commercial=True,
                source=Hub(
                    "facebook/timesformer-base-finetuned-k400",
                    "8aaf40ea7d3d282dcb0a5dea01a198320d15d6c0",
                    "pytorch_model.bin",
                ),
            ),
            Checkpoint(
                name="timesformer-k400-authors",
                file="TimeSformer_divST_8x32_224_K400.pyth",
                licence="CC-BY-NC-4.0",
                non_commercial=True,
                source=Url("https://www.dropbox.com/s/g5t24we9gl5yk88/TimeSformer_divST_8x32_224_K400.pyth?dl=1"),
            ),
        ),
        make=transformers_maker("Timesformer"),
        read=transformers_reader("Timesformer", _translate),
        encode=_encode,
        grid=lambda shape: Grid((shape[1] // 16, shape[2] // 16, shape[0]), prefix=1),
        frame_counts=(8,),
        sampling="uniform:8",
    )
)
