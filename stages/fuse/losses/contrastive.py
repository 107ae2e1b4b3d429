"""Contrastive losses between modalities and inside each: AVT's AVC (equation 2), and with labels MMT's AVC and IMC."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING_DIM = 256
TEMPERATURE = 0.07


class EmbeddedClips(NamedTuple):
    """Clips of a batch in the joint embedding. Rows of clips without the modality are meaningless and never used."""

    video: Tensor
    """(B, 256), unit length."""
    audio: Tensor
    """(B, 256), unit length."""
    has_video: Tensor
    """bool (B,)."""
    has_audio: Tensor
    """bool (B,)."""

    @property
    def both(self) -> Tensor:
        """Clips with both modalities, bool (B,)."""
        return self.has_video & self.has_audio


class JointEmbedding(nn.Module):
    """g_V and g_A of AVT's equation 2: a linear layer per modality to 256 dimensions, then unit length.

    video (B, D_video), audio (B, D_audio), has_video and has_audio bool (B,), each modality before fusion ->
    EmbeddedClips. The row of a clip without the modality may be NaN.
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
    """Cosine similarities over the temperature, (B, B): rows are sounds, columns pictures."""
    return embedded.audio @ embedded.video.T / TEMPERATURE


def audio_video_contrast(embedded: EmbeddedClips, labels: Tensor | None = None) -> Tensor:
    """AVC: mean cross-entropy of retrieving a clip's picture by its sound and its sound by its picture.

    AVT's equation 2, with the temperature inside the exponential as in ALBEF (arXiv 2107.07651), which it follows; in
    the printed formula it cancels. Only clips with both modalities take part. With labels int64 (B,), as in MMT, every
    pair of one class is positive with equal weight.

    Returns a scalar; 0, with a gradient of 0, for fewer than two clips.
    """
    both = embedded.both
    logits = similarity(embedded)[both][:, both]
    positive = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if labels is not None:
        positive = _same(labels[both])
    return (_cross_entropy(logits, positive) + _cross_entropy(logits.T, positive)) / 2


def intra_modality_contrast(embedded: EmbeddedClips, labels: Tensor) -> Tensor:
    """IMC: mean of the supervised contrastive losses inside each modality. labels int64 (B,).

    L_out of Khosla et al., "Supervised Contrastive Learning" (arXiv 2004.11362, equation 2). The only clip of its class
    is a negative of others and no anchor.

    Returns a scalar; a modality in which no two clips share a class adds 0.
    """
    video = _supervised(embedded.video[embedded.has_video], labels[embedded.has_video])
    audio = _supervised(embedded.audio[embedded.has_audio], labels[embedded.has_audio])
    return (video + audio) / 2


def recall_at_1(embedded: EmbeddedClips) -> float:
    """Share of sounds whose own picture is the nearest, among clips with both modalities; NaN without any."""
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
    """Cross-entropy against targets that are uniform over a row's positives. logits (R, C), positive bool (R, C). Rows
    without positives are skipped; with none left the loss is 0 and still has a gradient."""
    anchors = positive.any(dim=1)
    positive, log_likelihood = positive[anchors], logits[anchors].log_softmax(dim=1)
    of_positives = torch.where(positive, log_likelihood, 0).sum(dim=1) / positive.sum(dim=1)
    return -of_positives.sum() / max(len(of_positives), 1)
