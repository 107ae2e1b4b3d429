"""What attends to what in a trained head: the weights of its attention layers, and these rolled through the layers.

Attention rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928).
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
    """Inside, the softmax weights of each nn.MultiheadAttention and PoolingAttention in `head`, float (B, heads,
    queries, keys), are noted under the module's name, those of its last pass. They are computed beside the pass, whose
    outputs stay the same to the bit; outside nothing is slower than before."""
    weights: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in head.named_modules():
            if isinstance(module, nn.MultiheadAttention | PoolingAttention):
                handle = module.register_forward_hook(partial(_note, weights, name), with_kwargs=True)
                hooks.callback(handle.remove)
        yield weights


def _note(
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
    _, found = module.forward(*arguments, **{**options, "need_weights": True, "average_attn_weights": False})
    assert found is not None
    weights[name] = found


def why_without_attention(head: Head) -> str | None:
    """Why `attention_rollout` has nothing to say of a head, in words; None where it has."""
    if isinstance(head, CrossAttention) and not len(head.layers):
        return "crossattn with layers=0 attends to nothing"
    if isinstance(head, CrossAttention | Bottleneck | MMT | MATOnly | MATLiteOnly):
        return None
    return f"head '{head.name}' has no attention between cached tokens"


@torch.no_grad()
def attention_rollout(head: Head, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
    """How a head's attention is spread over the tokens of each modality that is read: (B, tokens), sums of one over a
    clip's tokens, and NaN for clips without a modality that takes part.

    Attention rollout: in each layer a token is half itself and half what it attends to, heads averaged, and these
    shares are multiplied from the first layer to the last. Feed-forward nets and projections are left out of it.

    * `crossattn`: under `audio` what video tokens read of the audio tokens, under `video` the reverse. Readers are
      averaged as the classifier takes them, over CLS where there is one. With one layer this is the attention itself.
    * `bottleneck`: what the shared tokens hold of each modality after the last block, averaged over them.
    * `mat_lite`, `mat`: what the mean of the tokens that come out holds of the cells that go in. Shares of
      pooled cells are interpolated to the cells that they are pooled of, whatever a kernel has learned. Of `mat` a cell
      of the stem is spread evenly over the frames that it is cut from: the map is over time.
    * `mmt`: as `bottleneck`, and from the sound's tokens there back through the encoder as of `mat_lite`.

    prepared: what `forward` takes. The head must be in evaluation mode. Raises UsageError for other heads, and where
    nothing is read.
    """
    if (why := why_without_attention(head)) is not None:
        raise UsageError(f"{why}: take crossattn, bottleneck, mmt, mat_lite or mat, or Grad-CAM, which every head has")
    with record_attention(head) as weights:
        head(prepared, present)
    averaged = {name: each.mean(dim=1) for name, each in weights.items()}
    lengths = {name: shape.length for name, shape in head.shapes.items()}
    if isinstance(head, CrossAttention):
        found = _of_cross_attention(head, averaged, lengths)
        lacking = _lacking(present, ("video", "audio"))
        return {name: _shares(each, lacking) for name, each in found.items()}
    if isinstance(head, MMT):
        found = _of_bottleneck(head.exchange, averaged, lengths["video"])
        found["audio"] = _through_encoder(head, head.encode, averaged, found["audio"])
    elif isinstance(head, Bottleneck):
        found = _of_bottleneck(head.exchange, averaged, lengths["video"])
    else:
        assert isinstance(head, MATOnly | MATLiteOnly)
        first = next(iter(averaged.values()))
        evenly = first.new_ones(len(first), head.encode.grid[0] * head.encode.grid[1])
        found = {"audio": _through_encoder(head, head.encode, averaged, evenly)}
    return {name: _shares(each, _lacking(present, (name,))) for name, each in found.items()}


def _of_cross_attention(
    head: CrossAttention, weights: Mapping[str, Tensor], lengths: Mapping[str, int]
) -> dict[str, Tensor]:
    columns = {"video": slice(0, lengths["video"]), "audio": slice(lengths["video"], None)}
    first = next(iter(weights.values()))
    every = torch.eye(sum(lengths.values()), device=first.device, dtype=first.dtype).expand(len(first), -1, -1)
    shares = {name: every[:, own] for name, own in columns.items()}
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
    every = torch.eye(size, device=first.device, dtype=first.dtype).expand(len(first), -1, -1)
    video, shared, audio = every[:, :frames], every[:, frames : frames + count], every[:, frames + count :]
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
    """From shares of the tokens that come out of an encoder, (B, N), to those of the sound's tokens, (B, T)."""
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
    """Shares of pooled cells at the cells that were pooled: linear between the middles of kernels, with the same sum,
    so that equal shares stay equal. (B, N') -> (B, N)."""
    if isinstance(pool, nn.Identity):
        return shares
    assert isinstance(pool, ConvolutionalPool | MaxPool)
    stride = pool.convolve.stride if isinstance(pool, ConvolutionalPool) else pool.pool.stride
    assert isinstance(stride, tuple)
    rows, columns = (_linear(pool.grid[axis], stride[axis]).to(shares) for axis in (0, 1))
    cells = torch.einsum("bij,ik,jl->bkl", shares.unflatten(1, (len(rows), -1)), rows, columns).flatten(1)
    return cells * (shares.sum(dim=1) / cells.sum(dim=1))[:, None]


def _linear(cells: int, stride: int) -> Tensor:
    """(pooled, cells): how much of the value at each cell comes from which pooled cell; columns add up to one."""
    middles = torch.arange(0, cells, stride)
    weights = (1 - (torch.arange(cells) - middles[:, None]).abs() / stride).clamp(min=0)
    weights[-1, middles[-1] :] = 1
    return weights


def _half_itself(weights: Tensor, shares: Tensor) -> Tensor:
    """(B, N, N) by (B, N, S) -> (B, N, S)."""
    return (weights @ shares + shares) / 2


def _lacking(present: Masks, names: tuple[str, ...]) -> Tensor | None:
    masks = [~mask for name in names if (mask := present[name]) is not None]
    return torch.stack(masks).any(dim=0) if masks else None


def _shares(found: Tensor, lacking: Tensor | None) -> Tensor:
    shares = found / found.sum(dim=1, keepdim=True)
    return shares if lacking is None else shares.masked_fill(lacking[:, None], torch.nan)
