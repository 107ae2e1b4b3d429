"""AVT's audio-video matching, AVM (equation 5): whether a picture and a sound come from one clip."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pairs(NamedTuple):
    """Pairs to fuse."""

    video: Tensor
    """Index of the clip that gives the picture, int64 (P,)."""
    audio: Tensor
    """Index of the clip that gives the sound, int64 (P,)."""
    is_match: Tensor
    """Whether the two are one clip, bool (P,)."""


@torch.no_grad()
def draw_pairs(
    similarity: Tensor,
    both: Tensor,
    generator: torch.Generator,
    negatives: Literal[1, 2] = 2,
    labels: Tensor | None = None,
) -> Pairs | None:
    """Positive pairs, each clip with itself, and hard negatives drawn from the batch.

    A clip's sound gets another clip's picture, and its picture another clip's sound, each drawn with probabilities
    softmax(similarity) over the other clips; with one negative per clip, a coin decides which of the two it gets. Draws
    depend on the generator and its device, not on the device of the similarities.

    Args:
        similarity: logits (B, B), rows are sounds, columns pictures.
        both: bool (B,), clips with both modalities; others take no part.
        generator: draws the negatives.
        negatives: per clip.
        labels: int64 (B,); with them clips of the same class are no negatives.

    Returns:
        Matches first, then negatives. Clips without a possible negative have none. None where no clip has any, as in a
        batch of fewer than two.
    """
    clips = both.nonzero().squeeze(1)
    logits = similarity[clips][:, clips]
    allowed = ~torch.eye(len(clips), dtype=torch.bool, device=clips.device)
    if labels is not None:
        allowed &= labels[clips, None] != labels[clips]
    drawable = allowed.any(dim=1)
    if not drawable.any():
        return None
    picture, sound = _draw(logits, allowed, generator), _draw(logits.T, allowed, generator)
    gets_picture = gets_sound = drawable
    if negatives == 1:
        coin = _uniform((len(clips),), generator, clips.device) < 0.5
        gets_picture, gets_sound = drawable & coin, drawable & ~coin
    video = torch.cat([clips, clips[picture[gets_picture]], clips[gets_sound]])
    audio = torch.cat([clips, clips[gets_picture], clips[sound[gets_sound]]])
    return Pairs(video, audio, torch.arange(len(video), device=clips.device) < len(clips))


class Matching(nn.Module):
    """p_AVM of equation 5: [V_CLS ; A_CLS] -> Linear -> 2. video (P, D_video) and audio (P, D_audio), after fusion of
    the pairs -> logits (P, 2), the second for a match."""

    def __init__(self, video_dim: int, audio_dim: int) -> None:
        super().__init__()
        self.classify = nn.Linear(video_dim + audio_dim, 2)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        return self.classify(torch.cat([video, audio], dim=1))


def matching_loss(logits: Tensor, is_match: Tensor) -> Tensor:
    """AVM: mean cross-entropy over pairs. logits (P, 2), is_match bool (P,). Returns a scalar."""
    return F.cross_entropy(logits, is_match.long())


def _draw(logits: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a column per row with probabilities softmax(logits) over those allowed, as the largest logit after Gumbel
    noise. (n, n) -> int64 (n,), meaningless where a row allows none."""
    uniform = _uniform(logits.shape, generator, logits.device).clamp_min(torch.finfo(torch.float32).tiny)
    noisy = logits.float() - (-uniform.log()).log()
    return noisy.masked_fill(~allowed, -torch.inf).argmax(dim=1)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(device)
