"""`ast`: the Audio Spectrogram Transformer, on a filter bank of ten seconds.

Gong, Chung, Glass, "AST: Audio Spectrogram Transformer" (2021), as implemented in transformers. Tokens: CLS,
distillation, then 12 x 101 patches of bands and time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from avfuse.features.backbones.adapters.transformers_checkpoints import (
    VISION_RULES,
    rename_tensors,
    transformers_maker,
    transformers_reader,
)
from avfuse.features.backbones.registry import Backbone, Encoded, Grid, StateDict, register
from avfuse.features.backbones.weights import Checkpoint, Hub, Url

if TYPE_CHECKING:
    from torch import Tensor

_RULES = {r"dist_token": "embeddings.distillation_token", **VISION_RULES}


def _translate(state: StateDict) -> StateDict:
    """Translate the authors' layout: timm's names after `v.`, classifiers to drop, and queries, keys and values in one
    tensor."""
    if "v.cls_token" not in state:
        return state
    bare = {name.removeprefix("v."): tensor for name, tensor in state.items()}
    translated = rename_tensors(bare, _RULES, drop=r"mlp_head\.|head\.|head_dist\.")
    for name in [name for name in translated if ".attn.qkv." in name]:
        layer, kind = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name).groups()  # type: ignore[union-attr]
        for part, tensor in zip(("query", "key", "value"), translated.pop(name).chunk(3), strict=True):
            translated[f"encoder.layer.{layer}.attention.attention.{part}.{kind}"] = tensor
    return translated


def _encode(network: Any, banks: Tensor) -> Encoded:
    """Pooled: (CLS + distillation) / 2, the input of the authors' classifier."""
    output = network(banks)
    return Encoded(output.pooler_output, output.last_hidden_state)


AST = register(
    Backbone(
        name="ast",
        revision=1,
        inputs=("fbank",),
        feature_dim=768,
        preprocess=None,
        checkpoints=(
            Checkpoint(
                name="ast-audioset",
                file="ast-finetuned-audioset-10-10-0.4593.safetensors",
                licence="BSD-3-Clause",
                source=Hub("MIT/ast-finetuned-audioset-10-10-0.4593", "f826b80d28226b62986cc218e5cec390b1096902"),
                sha256="ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d",
            ),
            Checkpoint(
                name="ast-audioset-authors",
                file="audioset_10_10_0.4593.pth",
                licence="BSD-3-Clause",
                source=Url("https://www.dropbox.com/s/ca0b1v2nlxzyeb4/audioset_10_10_0.4593.pth?dl=1"),
                sha256="dd1042f2a5a283e6fbe5f914678e3ec3ffefe21235c8eec38d186bd7bd6aa995",
            ),
        ),
        make=transformers_maker("AST"),
        read=transformers_reader("AST", _translate),
        encode=_encode,
        grid=lambda shape: Grid((12, 101), prefix=2),
    )
)
