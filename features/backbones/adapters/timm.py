"""`timm:NAME`: any image network of timm with pretrained weights, under timm's name."""

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
    """The backbone of a timm network. Raises UsageError for an unknown one, or one whose inputs avfuse cannot make."""
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

    shapes = probe_output_shapes(make, _encode, (3, preprocess.crop, preprocess.crop))
    return Backbone(
        name=f"{PREFIX}:{name}",
        revision=1,
        inputs=("frames", "image"),
        feature_dim=shapes.feature_dim,
        preprocess=preprocess,
        checkpoints=_checkpoints(name, config),
        make=make,
        read=read,
        encode=_encode,
        grid=_grid(make, shapes.tokens, shapes.feature_dim),
    )


def _encode(network: Any, images: Tensor) -> Encoded:
    """Pooled: the classifier's input. Tokens: those of the last layer, or the cells of its feature map."""
    features = network.forward_features(images)
    pooled = network.forward_head(features, pre_logits=True)
    if features.ndim == 4:
        by_channel = features.shape[1] == network.num_features
        features = features.flatten(2).transpose(1, 2) if by_channel else features.flatten(1, 2)
    return Encoded(pooled, features)


def _grid(make: Any, tokens: tuple[int, int] | None, dim: int) -> Any:
    """The layout of the tokens: a square after timm's prefix tokens. None if they are not of the pooled width."""
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
            f"timm's {name} takes images of {width} x {height} ({data['crop_mode']}, {data['interpolation']}): "
            "avfuse makes only square ones, centre-cropped or squashed"
        )
    scaled = math.floor(height / data["crop_pct"])
    return Preprocess(
        resize=scaled if data["crop_mode"] == "center" else (scaled, scaled),
        crop=height,
        interpolation=data["interpolation"],
        mean=tuple(255 * value for value in data["mean"]),
        std=tuple(255 * value for value in data["std"]),
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
