"""Contrastive losses between modalities and inside each: AVT's AVC (equation 2), and with labels MMT's AVC and IMC."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING_DIM = 256
TEMPERATURE = 0.07


class EmbeddedClips(NamedTuple):
    """Clips of a batch in the common space: `video` and `audio` (B, 256) of unit length, and whether the clip has each,
    bool (B,). What stands in the rows of clips without the modality means nothing and is never used."""

    video: Tensor
    audio: Tensor
    has_video: Tensor
    has_audio: Tensor

    @property
    def both(self) -> Tensor:
        """bool (B,): the clips that can be paired."""
        return self.has_video & self.has_audio


class JointEmbedding(nn.Module):
    """g_V and g_A of AVT's equation 2: a linear layer per modality to 256 dimensions, then unit length.

    video (B, D_video), audio (B, D_audio), has_video and has_audio bool (B,), each modality before fusion ->
    EmbeddedClips. Where a clip lacks a modality its row may be NaN.
    """

    def __init__(self, video_dim: int, audio_dim: int) -> None:
        super().__init__()
        self.video = nn.Linear(video_dim, EMBEDDING_DIM)
        self.audio = nn.Linear(audio_dim, EMBEDDING_DIM)

    def forward(self, video: Tensor, audio: Tensor, has_video: Tensor, has_audio: Tensor) -> EmbeddedClips:
        return EmbeddedClips(
            F.normalize(self.video(torch.where(has_video[:, None], video, 0)), dim=1),
            F.normalize(self.audio(torch.where(has_audio[:, None], audio, 0)), dim=1),
            has_video,
            has_audio,
        )


def similarity(embedded: EmbeddedClips) -> Tensor:
    """Cosines over the temperature (B, B): a row per clip's sound, a column per clip's picture."""
    return embedded.audio @ embedded.video.T / TEMPERATURE


def audio_video_contrast(embedded: EmbeddedClips, labels: Tensor | None = None) -> Tensor:
    """AVC: cross-entropy of finding a clip's picture by its sound and its sound by its picture, the mean of the two.

    AVT's equation 2 as ALBEF (arXiv 2107.07651), which it follows, has it: inside the exponential, where the printed
    formula has a temperature that cancels. Only clips with both modalities take part. With labels int64 (B,), as in
    MMT, every pair of one class is right and each of them equally.

    Returns a scalar; 0, with a gradient of 0, for fewer than two clips.
    """
    both = embedded.both
    logits = similarity(embedded)[both][:, both]
    positive = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if labels is not None:
        positive = _same(labels[both])
    return (_cross_entropy(logits, positive) + _cross_entropy(logits.T, positive)) / 2


def intra_modality_contrast(embedded: EmbeddedClips, labels: Tensor) -> Tensor:
    """IMC: the supervised contrastive loss inside each modality, the mean of the two. labels int64 (B,).

    L_out of Khosla et al., "Supervised Contrastive Learning" (arXiv 2004.11362, equation 2). A clip that is alone with
    its class has nothing to be near to: it is only what others are to be far from.

    Returns a scalar; a modality in which no two clips share a class adds 0.
    """
    video = _supervised(embedded.video[embedded.has_video], labels[embedded.has_video])
    audio = _supervised(embedded.audio[embedded.has_audio], labels[embedded.has_audio])
    return (video + audio) / 2


def recall_at_1(embedded: EmbeddedClips) -> float:
    """The share of sounds whose own picture is the nearest, among clips with both; NaN where there is none."""
    both = embedded.both
    logits = similarity(embedded)[both][:, both]
    if not len(logits):
        return math.nan
    own = torch.arange(len(logits), device=logits.device)
    return (logits.argmax(dim=1) == own).float().mean().item()


def _supervised(vectors: Tensor, labels: Tensor) -> Tensor:
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    logits = (vectors @ vectors.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    return _cross_entropy(logits, _same(labels) & ~itself)


def _same(labels: Tensor) -> Tensor:
    return labels[:, None] == labels


def _cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Against targets that are uniform over a row's positives, bool like logits (R, C). Rows without are left out, and
    with no row left the loss is 0 and still has a gradient."""
    anchors = positive.any(dim=1)
    positive, log_likelihood = positive[anchors], logits[anchors].log_softmax(dim=1)
    of_positives = torch.where(positive, log_likelihood, 0).sum(dim=1) / positive.sum(dim=1)
    return -of_positives.sum() / max(len(of_positives), 1)
