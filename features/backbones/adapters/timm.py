"""`timm:NAME`: any picture network of timm that comes with pretrained weights, under the name timm has for it."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from avfuse.features.backbones.adapters.output_shapes import probe_output_shapes
from avfuse.features.backbones.loading import first_line, read_state
from avfuse.features.backbones.registry import Backbone, Encoded, Grid
from avfuse.features.backbones.weights import Checkpoint, Hub, Url
from avfuse.features.errors import UsageError
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

PREFIX = "timm"


def adapt(name: str) -> Backbone:
    """Raises UsageError for a network that timm does not have, or that takes what avfuse does not make."""
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(pretrained=True), 3, cutoff=0.5)
        raise UsageError(f"timm has no network '{name}'{': did you mean ' + ', '.join(near) + '?' if near else ''}")
    config: Any = timm.get_pretrained_cfg(name)
    preprocess = _preprocess(name, resolve_data_config(pretrained_cfg=config.to_dict()))

    def make() -> nn.Module:
        return timm.create_model(name, pretrained=False, num_classes=0)

    def read(path: Path) -> nn.Module:
        try:
            return timm.create_model(
                name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"state_dict": dict(read_state(path))}
            )
        except (RuntimeError, KeyError) as error:
            raise UsageError(f"{path} is no checkpoint of timm's {name} ({first_line(error)})") from error

    given = probe_output_shapes(make, _encode, (3, preprocess.crop, preprocess.crop))
    return Backbone(
        name=f"{PREFIX}:{name}",
        revision=1,
        inputs=("frames", "image"),
        feature_dim=given.feature_dim,
        preprocess=preprocess,
        checkpoints=_checkpoints(name, config),
        make=make,
        read=read,
        encode=_encode,
        grid=_grid(make, given.tokens, given.feature_dim),
    )


def _encode(network: Any, pictures: Tensor) -> Encoded:
    """Pooled is what the classifier would have seen; tokens are the last layer's, or the cells of its map."""
    features = network.forward_features(pictures)
    pooled = network.forward_head(features, pre_logits=True)
    if features.ndim == 4:
        by_channel = features.shape[1] == network.num_features
        features = features.flatten(2).transpose(1, 2) if by_channel else features.flatten(1, 2)
    return Encoded(pooled, features)


def _grid(make: Any, tokens: tuple[int, int] | None, dim: int) -> Any:
    """Where the tokens lie: in a square behind what timm calls prefix tokens. None where they are of another width."""
    if tokens is None or tokens[1] != dim:
        return None
    import torch

    with torch.device("meta"):
        prefix = getattr(make(), "num_prefix_tokens", 0)
    cells = tokens[0] - prefix
    side = math.isqrt(cells)
    grid = Grid((side, side) if side * side == cells else (cells,), prefix, pooled=2 if side * side == cells else 1)
    return lambda shape: grid


def _preprocess(name: str, data: dict[str, Any]) -> Preprocess:
    _, height, width = data["input_size"]
    if height != width or data["crop_mode"] not in ("center", "squash") or data["interpolation"] not in _FILTERS:
        raise UsageError(
            f"timm's {name} takes pictures of {width} x {height} ({data['crop_mode']}, {data['interpolation']}): "
            "only square ones, cropped at the centre or squashed, are made here"
        )
    scaled = math.floor(height / data["crop_pct"])
    return Preprocess(
        resize=scaled if data["crop_mode"] == "center" else (scaled, scaled),
        crop=height,
        interpolation=data["interpolation"],
        mean=tuple(255 * each for each in data["mean"]),
        std=tuple(255 * each for each in data["std"]),
    )


_FILTERS = ("bilinear", "bicubic", "lanczos")


def _checkpoints(name: str, config: Any) -> tuple[Checkpoint, ...]:
    licence = config.license or "not stated"
    source: Hub | Url
    if config.hf_hub_id:
        source = Hub(config.hf_hub_id, "main", config.hf_hub_filename or "model.safetensors")
        file = f"timm--{name}{source.filename[source.filename.rindex('.') :]}"
    elif config.url:
        source = Url(config.url)
        file = config.url.rpartition("/")[2]
    else:
        return ()
    return (
        Checkpoint(
            name=f"{PREFIX}:{name}", file=file, licence=licence, source=source, non_commercial="-nc" in licence.lower()
        ),
    )
