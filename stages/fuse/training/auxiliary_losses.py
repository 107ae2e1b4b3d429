"""Losses besides classification: AVT's hybrid loss (equation 8) and MMT's contrastive losses."""

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
"""Prefix of the head outputs that a loss needs, and their description, by the name of its weight in a recipe."""

_PLAIN_SHAPES = {"video": ModalityShape(2, 16), "audio": ModalityShape(128, 16, 0, (4, 32))}
"""Frames, and audio tokens in the smallest known grid."""


def auxiliary_weights(recipe: Recipe) -> dict[str, float]:
    """The weights of a recipe's auxiliary losses, by name; empty with classification alone."""
    return {name: weight for name in _NEEDS if (weight := getattr(recipe, name)) > 0}


class AuxiliaryLosses(nn.Module):
    """The auxiliary losses of a recipe, with the layers that only they need: these train with the head, and prediction
    does without them.

    AVC and IMC reuse the classification pass; AVM adds a pass over negatives; reconstruction a pass over masked input.
    Backbones are frozen, so AVC and IMC compare the tokens as the head projects them, before fusion.

    The layers of these losses always run in the precision of their weights: at a temperature of 0.07 bfloat16 cosines
    would change the logits by some hundredths. Negatives and masks are drawn from the generator given; dropout of
    further passes comes from the dropout source in use.

    Args:
        head: the head to train.
        recipe: says which losses, with their weights.
        filter_banks: of the data set's clips, for masked reconstruction.

    Raises:
        UsageError: the head lacks an output that a loss needs, or masked reconstruction lacks filter banks or a grid of
            audio tokens.
    """

    def __init__(self, head: Head, recipe: Recipe, filter_banks: FilterBanks | None) -> None:
        super().__init__()
        self.recipe, self.weights = recipe, auxiliary_weights(recipe)
        outputs = _output_shapes(head)
        for name in self.weights:
            _check_outputs(head, outputs, name)
        dims = {name: shape[-1] for name, shape in outputs.items()}
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
        """The losses of a recipe, on the head's device; None for classification alone."""
        if not auxiliary_weights(recipe):
            return None
        return cls(head, recipe, filter_banks).to(next(head.parameters()).device)

    def forward(
        self, head: Head, batch: HeadBatch, outputs: Mapping[str, Tensor], labels: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Unweighted losses by name, scalars.

        Args:
            head: the head.
            batch: a training batch.
            outputs: of the head for this batch.
            labels: int64 (B,).
            rng: draws negatives and masks.
        """
        losses = {}
        embedded = None
        if self.space is not None:
            embedded = self.embed(outputs, batch)
            with self._full_precision():
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
        """A batch's clips in the joint embedding space of AVC and IMC. outputs: of the head for this batch."""
        assert self.space is not None
        has = _has(batch)
        with self._full_precision():
            vectors = (self._cast(outputs[f"before_{name}"]) for name in ("video", "audio"))
            embedded: EmbeddedClips = self.space(*vectors, has["video"], has["audio"])
        return embedded

    def count_too_short(self, clips: Tensor) -> int | None:
        """The number of clips, of those at these indices, whose sound is too short to mask; None without masked
        reconstruction."""
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
        """AVM: matching pairs as the classification pass fused them, and negatives in a pass of their own.

        Negatives are drawn by their similarity in AVC's embedding; uniformly without AVC.
        """
        has = _has(batch)
        both = has["video"] & has["audio"]
        similarities = torch.zeros(len(both), len(both), device=both.device)
        if embedded is not None and "avc" in self.weights:
            with self._full_precision():
                similarities = similarity(embedded)
        classes = labels if self.recipe.other_class_negatives else None
        pairs = draw_pairs(similarities, both, rng, self.recipe.negatives, classes)
        if pairs is None:
            return torch.zeros((), device=both.device)
        matches, negative = pairs.video[pairs.is_match], ~pairs.is_match
        prepared = {
            "video": batch.prepared["video"][pairs.video[negative]],
            "audio": batch.prepared["audio"][pairs.audio[negative]],
        }
        fused = head(prepared, {"video": None, "audio": None})
        with self._full_precision():
            vectors = (
                self._cast(torch.cat([outputs[name][matches], fused[name]])) for name in ("after_video", "after_audio")
            )
            return matching_loss(matching(*vectors), pairs.is_match)

    def _reconstruct(
        self, reconstruction: MaskedReconstruction, head: Head, batch: HeadBatch, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Reconstruction errors of a pass over masked input, by modality."""
        hidden = reconstruction.draw(batch.index, _has(batch), rng)
        outputs = head(reconstruction.hide(batch.prepared, hidden), batch.present)
        with self._full_precision():
            fused = {name: self._cast(outputs[f"tokens_{name}"]) for name in ("video", "audio")}
            cached = head.modality_inputs()["video"].unstandardise(batch.prepared["video"])
            return reconstruction.errors(fused, cached, batch.index, hidden)

    @contextmanager
    def _full_precision(self) -> Iterator[None]:
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            yield

    def _cast(self, x: Tensor) -> Tensor:
        """x in the precision of the weights."""
        return x.to(next(self.parameters()).dtype)


def check_auxiliary_losses(
    name: str,
    shapes: Mapping[str, ModalityShape],
    targets: Targets,
    options: Settings,
    recipe: Recipe,
    filter_banks: FilterBanks | None,
) -> None:
    """Check that a head of this kind can be trained with a recipe's auxiliary losses.

    Args:
        name: of the head.
        shapes: of the modalities.
        targets: to learn.
        options: of the head.
        recipe: says which losses.
        filter_banks: of the data set's clips.

    Raises:
        UsageError: as `AuxiliaryLosses` does.
    """
    if auxiliary_weights(recipe):
        with torch.random.fork_rng(devices=[]):
            AuxiliaryLosses(build_head(name, shapes, targets, options), recipe, filter_banks)


@torch.no_grad()
def _output_shapes(head: Head) -> dict[str, tuple[int, ...]]:
    """The shapes of a head's outputs for one clip, by name, without the batch dimension."""
    if head.fits_without_epochs:
        return {}
    device, was_training = next(head.parameters()).device, head.training
    zeros = {
        name: modality.to_layout(torch.zeros(1, modality.shape.length, modality.shape.dim, device=device))
        for name, modality in head.modality_inputs().items()
    }
    outputs = head.eval()(zeros, dict.fromkeys(zeros))
    head.train(was_training)
    return {name: tuple(output.shape[1:]) for name, output in outputs.items()}


def _has_outputs(head: Head, outputs: Mapping[str, tuple[int, ...]], loss: str) -> bool:
    """Whether a head gives the outputs that a loss needs; for reconstruction one token per input token."""
    prefix, _ = _NEEDS[loss]
    names = [f"{prefix}_{modality}" for modality in ("video", "audio")]
    if not all(name in outputs for name in names):
        return False
    lengths = [head.shapes[modality].length for modality in ("video", "audio")]
    return prefix != "tokens" or [outputs[name][0] for name in names] == lengths


def _check_outputs(head: Head, outputs: Mapping[str, tuple[int, ...]], loss: str) -> None:
    if not _has_outputs(head, outputs, loss):
        able = " or ".join(name for name in head_names() if loss in _supported_losses(name))
        raise UsageError(
            f"head '{head.name}' gives no {_NEEDS[loss][1]}: {loss} needs a head that does, such as {able}"
        )


@cache
def _supported_losses(name: str) -> frozenset[str]:
    """The auxiliary losses that a head supports with its default options, on plain tokens."""
    try:
        with torch.random.fork_rng(devices=[]):
            head = build_head(name, _PLAIN_SHAPES, Targets((LearnedTarget("label", ("a", "b")),)))
    except UsageError:
        return frozenset()
    outputs = _output_shapes(head)
    return frozenset(loss for loss in _NEEDS if _has_outputs(head, outputs, loss))


def _has(batch: HeadBatch) -> dict[str, Tensor]:
    """Mask of the clips that have a modality: bool (B,) by name."""
    present: Masks = batch.present
    all_present = torch.ones_like(batch.index, dtype=torch.bool)
    return {name: all_present if mask is None else mask for name, mask in present.items()}
