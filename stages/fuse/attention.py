"""What attends to what in a trained head: the weights of its attention layers, and these rolled through the layers.

Attention rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from features.errors import UsageError
from stages.fuse.heads import Head
from stages.fuse.heads.base import Masks
from stages.fuse.heads.bottleneck import Bottleneck
from stages.fuse.heads.crossattn import CrossAttention

_OTHER = {"video": "audio", "audio": "video"}


@contextmanager
def noted(head: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, the softmax weights of each nn.MultiheadAttention in `head`, float (B, heads, queries, keys), are noted
    under the module's name, those of its last pass. They are computed beside the pass, whose outputs stay the same to
    the bit; outside nothing is slower than before."""
    weights: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in head.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                handle = module.register_forward_hook(partial(_note, weights, name), with_kwargs=True)
                hooks.callback(handle.remove)
        yield weights


def _note(
    weights: dict[str, Tensor],
    name: str,
    module: nn.MultiheadAttention,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    _: Any,
) -> None:
    _, found = module.forward(*arguments, **{**options, "need_weights": True, "average_attn_weights": False})
    assert found is not None
    weights[name] = found


@torch.no_grad()
def attention(head: Head, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
    """How a head's attention is spread over the tokens of each modality that is read: (B, tokens), sums of one over a
    clip's tokens, and NaN for clips without a modality that takes part.

    Attention rollout: in each layer a token is half itself and half what it attends to, heads averaged, and these
    shares are multiplied from the first layer to the last. Feed-forward nets and projections are left out of it.

    * `crossattn`: under `audio` what video tokens read of the audio tokens, under `video` the reverse. Readers are
      averaged as the classifier takes them, over CLS where there is one. With one layer this is the attention itself.
    * `bottleneck`: what the shared tokens hold of each modality after the last block, averaged over them.

    prepared: what `forward` takes. The head must be in evaluation mode. Raises UsageError for other heads, and where
    nothing is read.
    """
    if not isinstance(head, CrossAttention | Bottleneck):
        raise UsageError(
            f"head '{head.name}' has no attention between cached tokens: take crossattn or bottleneck, or Grad-CAM, "
            "which every head has"
        )
    with noted(head) as weights:
        head(prepared, present)
    averaged = {name: each.mean(dim=1) for name, each in weights.items()}
    lengths = {name: shape.length for name, shape in head.shapes.items()}
    if isinstance(head, CrossAttention):
        found = _of_cross_attention(head, averaged, lengths)
        lacking = _lacking(present, ("video", "audio"))
        return {name: _shares(each, lacking) for name, each in found.items()}
    found = _of_bottleneck(head, averaged, lengths)
    return {name: _shares(each, _lacking(present, (name,))) for name, each in found.items()}


def _of_cross_attention(
    head: CrossAttention, weights: Mapping[str, Tensor], lengths: Mapping[str, int]
) -> dict[str, Tensor]:
    if not weights:
        raise UsageError("crossattn with layers=0 attends to nothing: take Grad-CAM, or train it with layers=1")
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


def _of_bottleneck(head: Bottleneck, weights: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
    count, frames = len(head.exchange.shared), lengths["video"]
    first = next(iter(weights.values()))
    size = frames + count + lengths["audio"]
    every = torch.eye(size, device=first.device, dtype=first.dtype).expand(len(first), -1, -1)
    video, shared, audio = every[:, :frames], every[:, frames : frames + count], every[:, frames + count :]
    for block in range(len(head.exchange.video_blocks)):
        joined = _half_itself(
            weights[f"exchange.video_blocks.{block}.attend.attend"], torch.cat([video, shared], dim=1)
        )
        video, of_video = joined[:, :frames], joined[:, frames:]
        entering = shared if head.exchange.update == "parallel_mean" else of_video
        joined = _half_itself(
            weights[f"exchange.audio_blocks.{block}.attend.attend"], torch.cat([entering, audio], dim=1)
        )
        of_audio, audio = joined[:, :count], joined[:, count:]
        shared = of_audio if head.exchange.update == "serial_last" else (of_video + of_audio) / 2
    held = shared.mean(dim=1)
    return {"video": held[:, :frames], "audio": held[:, frames + count :]}


def _half_itself(weights: Tensor, shares: Tensor) -> Tensor:
    """(B, N, N) by (B, N, S) -> (B, N, S)."""
    return (weights @ shares + shares) / 2


def _lacking(present: Masks, names: tuple[str, ...]) -> Tensor | None:
    masks = [~mask for name in names if (mask := present[name]) is not None]
    return torch.stack(masks).any(dim=0) if masks else None


def _shares(found: Tensor, lacking: Tensor | None) -> Tensor:
    shares = found / found.sum(dim=1, keepdim=True)
    return shares if lacking is None else shares.masked_fill(lacking[:, None], torch.nan)
