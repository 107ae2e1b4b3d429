"""Attention weights of a trained head, and attention rollout through its layers.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.heads.base import Masks
from avfuse.stages.fuse.heads.bottleneck import AVBottleneck, Bottleneck
from avfuse.stages.fuse.heads.crossattn import CrossAttention
from avfuse.stages.fuse.heads.mat import MATOnly
from avfuse.stages.fuse.heads.mat_lite import MATLiteOnly
from avfuse.stages.fuse.heads.mmt import MMT
from avfuse.stages.fuse.heads.multiscale import (
    MAT,
    ConvolutionalPool,
    MaxPool,
    MultiscaleBlock,
    MultiscaleTransformer,
    PoolingAttention,
)

_OTHER = {"video": "audio", "audio": "video"}


@contextmanager
def record_attention(head: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the softmax weights of each nn.MultiheadAttention and PoolingAttention in `head`, by module name: float
    (B, heads, queries, keys), of its last pass. They are computed beside the pass, whose outputs stay the same to the
    bit."""
    weights: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in head.named_modules():
            if isinstance(module, nn.MultiheadAttention | PoolingAttention):
                handle = module.register_forward_hook(partial(_record, weights, name), with_kwargs=True)
                hooks.callback(handle.remove)
        yield weights


def _record(
    weights: dict[str, Tensor],
    name: str,
    module: nn.MultiheadAttention | PoolingAttention,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    _: Any,
) -> None:
    if isinstance(module, PoolingAttention):
        weights[name] = module.weights(*arguments)
        return
    _, softmax = module.forward(*arguments, **{**options, "need_weights": True, "average_attn_weights": False})
    assert softmax is not None
    weights[name] = softmax


def why_without_attention(head: Head) -> str | None:
    """Reason why `attention_rollout` does not apply to a head; None if it does."""
    if isinstance(head, CrossAttention) and not len(head.layers):
        return "crossattn with layers=0 attends to nothing"
    if isinstance(head, CrossAttention | Bottleneck | MMT | MATOnly | MATLiteOnly):
        return None
    return f"head '{head.name}' has no attention between cached tokens"


@torch.no_grad()
def attention_rollout(head: Head, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
    """The share of a head's attention that each token gets, by modality that is read: (B, tokens), summing to one over
    a clip's tokens; NaN for clips without a modality that takes part.

    Attention rollout: in each layer a token is half itself and half what it attends to, heads averaged, and these
    shares are multiplied from the first layer to the last. Feed-forward layers and projections are ignored.

    * `crossattn`: under `audio` what video tokens read of the audio tokens, under `video` the reverse. Readers are
      pooled as the classifier pools them, over CLS where there is one. With one layer this is the attention itself.
    * `bottleneck`: what the shared tokens hold of each modality after the last block, averaged over them.
    * `mat_lite`, `mat`: what the mean of the output tokens holds of the input cells. Shares of pooled cells are
      interpolated to the cells that they were pooled from, whatever a kernel has learned. For `mat`, a cell of the stem
      is spread evenly over its frames: the map is over time.
    * `mmt`: as `bottleneck`, then from its audio tokens back through the encoder as for `mat_lite`.

    Args:
        head: in evaluation mode.
        prepared: the inputs of `forward`.
        present: which clips have a modality.

    Raises:
        UsageError: another head, or one that reads nothing.
    """
    if (why := why_without_attention(head)) is not None:
        raise UsageError(f"{why}: take crossattn, bottleneck, mmt, mat_lite or mat, or Grad-CAM, which every head has")
    with record_attention(head) as weights:
        head(prepared, present)
    averaged = {name: of_module.mean(dim=1) for name, of_module in weights.items()}
    lengths = {name: shape.length for name, shape in head.shapes.items()}
    if isinstance(head, CrossAttention):
        shares = _of_cross_attention(head, averaged, lengths)
        missing = _missing(present, ("video", "audio"))
        return {name: _normalised(of_modality, missing) for name, of_modality in shares.items()}
    if isinstance(head, MMT):
        shares = _of_bottleneck(head.exchange, averaged, lengths["video"])
        shares["audio"] = _through_encoder(head, head.encode, averaged, shares["audio"])
    elif isinstance(head, Bottleneck):
        shares = _of_bottleneck(head.exchange, averaged, lengths["video"])
    else:
        assert isinstance(head, MATOnly | MATLiteOnly)
        first = next(iter(averaged.values()))
        evenly = first.new_ones(len(first), head.encode.grid[0] * head.encode.grid[1])
        shares = {"audio": _through_encoder(head, head.encode, averaged, evenly)}
    return {name: _normalised(of_modality, _missing(present, (name,))) for name, of_modality in shares.items()}


def _of_cross_attention(
    head: CrossAttention, weights: Mapping[str, Tensor], lengths: Mapping[str, int]
) -> dict[str, Tensor]:
    columns = {"video": slice(0, lengths["video"]), "audio": slice(lengths["video"], None)}
    first = next(iter(weights.values()))
    identity = torch.eye(sum(lengths.values()), device=first.device, dtype=first.dtype).expand(len(first), -1, -1)
    shares = {name: identity[:, own] for name, own in columns.items()}
    readers = [name for name in columns if f"layers.0.attend.{name}.attend" in weights]
    for layer in range(len(head.layers)):
        after = dict(shares)
        for name in readers:
            read = weights[f"layers.{layer}.attend.{name}.attend"] @ shares[_OTHER[name]]
            after[name] = (shares[name] + read) / 2
        shares = after
    return {_OTHER[name]: head.shapes[name].pool(shares[name])[:, columns[_OTHER[name]]] for name in readers}


def _of_bottleneck(exchange: AVBottleneck, weights: Mapping[str, Tensor], frames: int) -> dict[str, Tensor]:
    count = len(exchange.shared)
    first = weights["exchange.audio_blocks.0.attend.attend"]
    size = frames + first.shape[2]
    identity = torch.eye(size, device=first.device, dtype=first.dtype).expand(len(first), -1, -1)
    video, shared, audio = identity[:, :frames], identity[:, frames : frames + count], identity[:, frames + count :]
    for block in range(len(exchange.video_blocks)):
        joined = _half_itself(
            weights[f"exchange.video_blocks.{block}.attend.attend"], torch.cat([video, shared], dim=1)
        )
        video, of_video = joined[:, :frames], joined[:, frames:]
        entering = shared if exchange.update == "parallel_mean" else of_video
        joined = _half_itself(
            weights[f"exchange.audio_blocks.{block}.attend.attend"], torch.cat([entering, audio], dim=1)
        )
        of_audio, audio = joined[:, :count], joined[:, count:]
        shared = of_audio if exchange.update == "serial_last" else (of_video + of_audio) / 2
    held = shared.mean(dim=1)
    return {"video": held[:, :frames], "audio": held[:, frames + count :]}


def _through_encoder(
    head: Head, encoder: MultiscaleTransformer, weights: Mapping[str, Tensor], shares: Tensor
) -> Tensor:
    """Convert shares of an encoder's output tokens, (B, N), to shares of the audio tokens, (B, T)."""
    for number in reversed(range(len(encoder.blocks))):
        block = encoder.blocks[number]
        assert isinstance(block, MultiscaleBlock)
        read = shares[:, None] @ weights[f"encode.blocks.{number}.attend"]
        shares = (_unpooled(read[:, 0], block.attend.pools[1]) + _unpooled(shares, block.pool_skip)) / 2
    if not isinstance(encoder, MAT):
        return F.pad(shares, (head.shapes["audio"].prefix, 0))
    columns = shares.unflatten(1, encoder.grids[0]).sum(dim=1)
    evenly = columns.new_full((1, 1, encoder.KERNEL[1]), 1 / encoder.KERNEL[1])
    frames = F.conv_transpose1d(columns[:, None], evenly, stride=encoder.STRIDE[1])[:, 0]
    return F.pad(frames, (0, head.shapes["audio"].length - frames.shape[1]))


def _unpooled(shares: Tensor, pool: nn.Module) -> Tensor:
    """Interpolate shares of pooled cells to the cells that were pooled: linear between the middles of kernels, with the
    same sum, so that equal shares stay equal. (B, N') -> (B, N)."""
    if isinstance(pool, nn.Identity):
        return shares
    assert isinstance(pool, ConvolutionalPool | MaxPool)
    stride = pool.convolve.stride if isinstance(pool, ConvolutionalPool) else pool.pool.stride
    assert isinstance(stride, tuple)
    rows, columns = (_linear(pool.grid[axis], stride[axis]).to(shares) for axis in (0, 1))
    cells = torch.einsum("bij,ik,jl->bkl", shares.unflatten(1, (len(rows), -1)), rows, columns).flatten(1)
    return cells * (shares.sum(dim=1) / cells.sum(dim=1))[:, None]


def _linear(cells: int, stride: int) -> Tensor:
    """(pooled, cells): the weight of each pooled cell at each cell; columns add up to one."""
    middles = torch.arange(0, cells, stride)
    weights = (1 - (torch.arange(cells) - middles[:, None]).abs() / stride).clamp(min=0)
    weights[-1, middles[-1] :] = 1
    return weights


def _half_itself(weights: Tensor, shares: Tensor) -> Tensor:
    """(B, N, N) by (B, N, S) -> (B, N, S)."""
    return (weights @ shares + shares) / 2


def _missing(present: Masks, names: tuple[str, ...]) -> Tensor | None:
    masks = [~mask for name in names if (mask := present[name]) is not None]
    return torch.stack(masks).any(dim=0) if masks else None


def _normalised(shares: Tensor, missing: Tensor | None) -> Tensor:
    shares = shares / shares.sum(dim=1, keepdim=True)
    return shares if missing is None else shares.masked_fill(missing[:, None], torch.nan)
