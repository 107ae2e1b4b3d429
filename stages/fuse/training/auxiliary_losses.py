"""What a head is trained on besides classification: AVT's hybrid loss (equation 8), and MMT's contrast."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, head_names
from avfuse.stages.fuse.heads.base import Masks
from avfuse.stages.fuse.losses.contrastive import (
    EmbeddedClips,
    JointEmbedding,
    audio_video_contrast,
    intra_modality_contrast,
    recall_at_1,
    similarity,
)
from avfuse.stages.fuse.losses.masked_reconstruction import MaskedReconstruction
from avfuse.stages.fuse.losses.matching import Matching, draw_pairs, matching_loss
from avfuse.stages.fuse.training.inputs import HeadBatch

_NEEDS = {
    "avc": ("before", "vector of each modality before fusion"),
    "imc": ("before", "vector of each modality before fusion"),
    "avm": ("after", "vector of each modality after fusion"),
    "masked": ("tokens", "fused token for each one that it takes"),
}
"""Each loss, by the name of its weight in a recipe: which outputs of a head it needs, and how these are called."""

_PLAIN = {"video": ModalityShape(2, 16), "audio": ModalityShape(128, 16, 0, (4, 32))}
"""Frames, and sound in the smallest known grid."""


def auxiliary_weights(recipe: Recipe) -> dict[str, float]:
    """The losses beside classification that a recipe wants, with their weights."""
    return {name: weight for name in _NEEDS if (weight := getattr(recipe, name)) > 0}


class AuxiliaryLosses(nn.Module):
    """Losses beside classification, with the layers that nothing else needs: they are trained with the head, and
    prediction does without them.

    AVC, IMC and AVM are of the pass that classification is of, AVM of a further one of wrong pairs as well, and masked
    learning of one of its own over input with parts hidden. Backbones are frozen, so what AVC and IMC draw together are
    their tokens as the head projects them, before it fuses.

    Products of the losses' own layers are never made in half precision: over a temperature of .07 the cosines would be
    off by some hundredths of a logit. What is drawn at random comes from the generator given, dropout of further passes
    from the source in use.
    """

    def __init__(self, head: Head, recipe: Recipe, filter_banks: FilterBanks | None) -> None:
        """Raises UsageError where the head gives not what a loss needs, or where masked learning lacks the clips'
        filter banks or a grid of sound."""
        super().__init__()
        self.recipe, self.weights = recipe, auxiliary_weights(recipe)
        given = _given(head)
        for name in self.weights:
            _check_gives(head, given, name)
        dims = {name: shape[-1] for name, shape in given.items()}
        self.space = self.matching = self.reconstruction = None
        if "avc" in self.weights or "imc" in self.weights:
            self.space = JointEmbedding(dims["before_video"], dims["before_audio"])
        if "avm" in self.weights:
            self.matching = Matching(dims["after_video"], dims["after_audio"])
        if "masked" in self.weights:
            of_tokens = {name: dims[f"tokens_{name}"] for name in ("video", "audio")}
            self.reconstruction = MaskedReconstruction(head.shapes, of_tokens, recipe.mask, filter_banks)

    @classmethod
    def of(cls, head: Head, recipe: Recipe, filter_banks: FilterBanks | None) -> "AuxiliaryLosses | None":
        """None for a recipe that wants classification alone."""
        if not auxiliary_weights(recipe):
            return None
        return cls(head, recipe, filter_banks).to(next(head.parameters()).device)

    def forward(
        self, head: Head, batch: HeadBatch, outputs: Mapping[str, Tensor], labels: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Each loss by name, a scalar, not weighted.

        Args:
            outputs: what the head gave of the batch.
            labels: int64 (B,).
        """
        losses = {}
        embedded = None
        if self.space is not None:
            embedded = self.embed(outputs, batch)
            with self._exactly():
                if "avc" in self.weights:
                    losses["avc"] = audio_video_contrast(embedded, labels if self.recipe.contrast_labels else None)
                if "imc" in self.weights:
                    losses["imc"] = intra_modality_contrast(embedded, labels)
        if self.matching is not None:
            losses["avm"] = self._match(self.matching, head, batch, outputs, embedded, labels, rng)
        if self.reconstruction is not None:
            errors = self._reconstruct(self.reconstruction, head, batch, rng)
            losses["masked"] = errors["video"] + errors["audio"]
        return losses

    def embed(self, outputs: Mapping[str, Tensor], batch: HeadBatch) -> EmbeddedClips:
        """A batch's clips in the common space. outputs: what the head gave of it."""
        assert self.space is not None
        has = _has(batch)
        with self._exactly():
            vectors = (self._exact(outputs[f"before_{name}"]) for name in ("video", "audio"))
            embedded: EmbeddedClips = self.space(*vectors, has["video"], has["audio"])
        return embedded

    @torch.no_grad()
    def recall(self, head: Head, batch: HeadBatch) -> float:
        """The share of a batch's sounds whose own picture is the nearest of the batch, in evaluation mode."""
        return recall_at_1(self.embed(head.eval()(batch.prepared, batch.present), batch))

    @torch.no_grad()
    def reconstruction_error(self, head: Head, batch: HeadBatch, seed: int = 0) -> dict[str, float]:
        """Mean squared errors by modality where input is hidden, in evaluation mode. What is hidden depends on the seed
        alone."""
        assert self.reconstruction is not None
        errors = self._reconstruct(self.reconstruction, head.eval(), batch, torch.Generator().manual_seed(seed))
        return {name: error.item() for name, error in errors.items()}

    def count_too_short(self, clips: Tensor) -> int | None:
        """How many of the clips at these indices have so little sound that masked learning hides nothing of it; None
        where there is no masked learning."""
        return None if self.reconstruction is None else self.reconstruction.count_too_short(clips)

    def _match(
        self,
        matching: Matching,
        head: Head,
        batch: HeadBatch,
        outputs: Mapping[str, Tensor],
        embedded: EmbeddedClips | None,
        labels: Tensor,
        rng: torch.Generator,
    ) -> Tensor:
        """AVM: the batch's own pairs as they are fused already, and wrong ones in a pass of their own. Where AVC has no
        weight, no common space says which are hard, and each other clip is as likely."""
        has = _has(batch)
        both = has["video"] & has["audio"]
        alike = torch.zeros(len(both), len(both), device=both.device)
        if embedded is not None and "avc" in self.weights:
            with self._exactly():
                alike = similarity(embedded)
        others = labels if self.recipe.other_class_negatives else None
        pairs = draw_pairs(alike, both, rng, self.recipe.negatives, others)
        if pairs is None:
            return torch.zeros((), device=both.device)
        own, wrong = pairs.video[pairs.is_match], ~pairs.is_match
        prepared = {
            "video": batch.prepared["video"][pairs.video[wrong]],
            "audio": batch.prepared["audio"][pairs.audio[wrong]],
        }
        fused = head(prepared, {"video": None, "audio": None})
        with self._exactly():
            vectors = (
                self._exact(torch.cat([outputs[name][own], fused[name]])) for name in ("after_video", "after_audio")
            )
            return matching_loss(matching(*vectors), pairs.is_match)

    def _reconstruct(
        self, reconstruction: MaskedReconstruction, head: Head, batch: HeadBatch, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Errors of a pass over hidden input, by modality."""
        hidden = reconstruction.draw(batch.index, _has(batch), rng)
        outputs = head(reconstruction.hide(batch.prepared, hidden), batch.present)
        with self._exactly():
            fused = {name: self._exact(outputs[f"tokens_{name}"]) for name in ("video", "audio")}
            cached = head.modality_inputs()["video"].unstandardise(batch.prepared["video"])
            return reconstruction.errors(fused, cached, batch.index, hidden)

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            yield

    def _exact(self, x: Tensor) -> Tensor:
        """In the precision of the weights."""
        return x.to(next(self.parameters()).dtype)


def check_auxiliary_losses(
    name: str,
    shapes: Mapping[str, ModalityShape],
    targets: Targets,
    options: Settings,
    recipe: Recipe,
    filter_banks: FilterBanks | None,
) -> None:
    """Whether a head of this kind can be trained as its recipe wants. Raises UsageError as `AuxiliaryLosses` does."""
    if auxiliary_weights(recipe):
        with torch.random.fork_rng(devices=[]):
            AuxiliaryLosses(build_head(name, shapes, targets, options), recipe, filter_banks)


@torch.no_grad()
def _given(head: Head) -> dict[str, tuple[int, ...]]:
    """What a head gives of a clip of zeros: shapes by name, without the dimension of clips."""
    if head.fits_without_epochs:
        return {}
    device, was_training = next(head.parameters()).device, head.training
    zeros = {
        name: door.to_layout(torch.zeros(1, door.shape.length, door.shape.dim, device=device))
        for name, door in head.modality_inputs().items()
    }
    outputs = head.eval()(zeros, dict.fromkeys(zeros))
    head.train(was_training)
    return {name: tuple(output.shape[1:]) for name, output in outputs.items()}


def _gives(head: Head, given: Mapping[str, tuple[int, ...]], loss: str) -> bool:
    """Whether a head gives what a loss needs; for masked learning a token for each that it takes."""
    kind, _ = _NEEDS[loss]
    names = [f"{kind}_{modality}" for modality in ("video", "audio")]
    if not all(name in given for name in names):
        return False
    lengths = [head.shapes[modality].length for modality in ("video", "audio")]
    return kind != "tokens" or [given[name][0] for name in names] == lengths


def _check_gives(head: Head, given: Mapping[str, tuple[int, ...]], loss: str) -> None:
    if not _gives(head, given, loss):
        able = " or ".join(name for name in head_names() if loss in _supported_losses(name))
        raise UsageError(
            f"head '{head.name}' gives no {_NEEDS[loss][1]}: {loss} needs a head that does, such as {able}"
        )


@cache
def _supported_losses(name: str) -> frozenset[str]:
    """The losses that a head with its default options can be trained on, where it takes plain tokens."""
    try:
        with torch.random.fork_rng(devices=[]):
            head = build_head(name, _PLAIN, Targets((LearnedTarget("label", ("a", "b")),)))
    except UsageError:
        return frozenset()
    given = _given(head)
    return frozenset(loss for loss in _NEEDS if _gives(head, given, loss))


def _has(batch: HeadBatch) -> dict[str, Tensor]:
    """Which clips have a modality: bool (B,) by name."""
    present: Masks = batch.present
    everyone = torch.ones_like(batch.index, dtype=torch.bool)
    return {name: everyone if mask is None else mask for name, mask in present.items()}
