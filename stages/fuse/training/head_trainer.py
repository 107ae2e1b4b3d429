"""One head in training: its batches, losses, optimiser and random numbers, and one epoch of it, step by step.

Features are on the device in the layout of the head, so that a batch is an index into them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.heads.dropout import GeneratorMasks, dropout_source
from avfuse.stages.fuse.losses.l1 import l1
from avfuse.stages.fuse.training.auxiliary_losses import AuxiliaryLosses
from avfuse.stages.fuse.training.balanced_batches import balanced_batches
from avfuse.stages.fuse.training.checkpoint import tensors_under
from avfuse.stages.fuse.training.inputs import HeadBatch, HeadInputs, rng_devices


@dataclass(frozen=True)
class EpochLosses:
    """Mean losses per clip over an epoch."""

    total: float
    """The loss that was minimised."""
    parts: dict[str, float] = field(default_factory=dict)
    """Its unweighted terms, `ce` and those of `AuxiliaryLosses`; empty without auxiliary losses."""


class HeadTrainer:
    """A head with its optimiser and its own random numbers, so that it trains the same whatever is trained beside it.

    Args:
        inputs: the clips to fit, as the head takes them.
        truth: of all clips of the data set, one tensor per target.
        recipe: how to train.
        seed: of initial weights, shuffling and augmentation.
        parents: trained heads to start from, by name.
        filter_banks: of all clips of the data set, for masked reconstruction.

    Raises:
        UsageError: as `AuxiliaryLosses` does.
    """

    def __init__(
        self,
        inputs: HeadInputs,
        truth: Sequence[Tensor],
        recipe: Recipe,
        seed: int,
        parents: Mapping[str, Head] | None = None,
        filter_banks: FilterBanks | None = None,
    ) -> None:
        device = inputs.indices.device
        with torch.random.fork_rng(devices=rng_devices(device)):
            torch.manual_seed(seed)
            self.head = inputs.new_head()
            self.auxiliary = AuxiliaryLosses.of(self.head, recipe, filter_banks)
        self.head.init_from_parents(parents or {})
        self.inputs, self.truth, self.recipe, self.seed = inputs, truth, recipe, seed
        self.shuffle_rng = torch.Generator().manual_seed(seed)
        self.augment_rng = torch.Generator(device).manual_seed(seed)  # views, dropout, negatives, masks
        self.epochs = self.steps = 0
        parameters = [*self.head.parameters(), *(self.auxiliary.parameters() if self.auxiliary is not None else ())]
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)

    def shuffled_batches(self) -> Sequence[Tensor]:
        """Indices int64 (B,) of an epoch's batches, in a new random order."""
        indices = self.inputs.indices
        if self.recipe.classes_and_clips is not None:
            if self.inputs.streamed is not None:
                raise UsageError("balanced batches need all features in memory: raise --memory, or leave balanced out")
            labels = balanced_labels(self.truth)[indices]
            batches = balanced_batches(labels, *self.recipe.classes_and_clips, self.shuffle_rng)
            return [indices[batch] for batch in batches]
        order = torch.randperm(len(indices), generator=self.shuffle_rng).to(indices.device)
        return indices[order].split(self.recipe.batch_size)

    def augmented_batches(self, batches: Sequence[Tensor]) -> Iterator[HeadBatch]:
        """The batches of a new epoch, with views and dropped modalities drawn at random.

        batches: as `shuffled_batches` gives them. Streamed features come in an order of their own instead.
        """
        self.epochs += 1
        return self.inputs.training_batches(self.recipe, self.epochs, batches, self.seed, self.augment_rng)

    def losses(self, batch: HeadBatch) -> dict[str, Tensor]:
        """Mean losses of a batch, scalars: the weighted sum as `total`; with auxiliary losses also each of its terms,
        unweighted. The L1 penalty is not among them."""
        truth = [target[batch.index] for target in self.truth]
        outputs = self.head(batch.prepared, batch.present)
        classification = self.head.loss(outputs, batch.present, truth, self.recipe.label_smoothing)
        if self.auxiliary is None:
            return {"total": classification}
        labels = balanced_labels(truth)
        terms = self.auxiliary(self.head, batch, outputs, labels, self.augment_rng)
        weighted = [weight * terms[name] for name, weight in self.auxiliary.weights.items()]
        return {"total": sum(weighted, start=classification), "ce": classification, **terms}

    def learning_rate(self, batches_per_epoch: int) -> float:
        """The learning rate of the next step."""
        return self.recipe.lr * _schedule_factor(self.recipe, self.steps, batches_per_epoch * self.recipe.epochs)

    def step(self, learning_rate: float) -> None:
        """Update the weights by their gradients."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """State that further training depends on, for a checkpoint."""
        optimiser = {
            f"optimiser.{number}.{name}": value
            for number, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        auxiliary = {} if self.auxiliary is None else self.auxiliary.state_dict()
        return {
            **{f"head.{name}": value for name, value in self.head.state_dict().items()},
            **{f"objective.{name}": value for name, value in auxiliary.items()},
            **optimiser,
            "order": self.shuffle_rng.get_state(),
            "draws": self.augment_rng.get_state(),
            "steps": torch.tensor(self.steps),
            "epochs": torch.tensor(self.epochs),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` gave."""
        self.head.load_state_dict(tensors_under(state, "head."))
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(tensors_under(state, "objective."))
        optimiser_state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors_under(state, "optimiser.").items():
            number, moment = name.split(".")
            optimiser_state.setdefault(int(number), {})[moment] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": optimiser_state, "param_groups": groups})
        self.shuffle_rng.set_state(state["order"].cpu())
        self.augment_rng.set_state(state["draws"].cpu())
        self.steps, self.epochs = int(state["steps"]), int(state["epochs"])


def train_epoch(trainer: HeadTrainer) -> EpochLosses:
    """Train one head for one epoch.

    Of a head that may share its weights with others, use `vectorized.train_epochs`.
    """
    head, recipe, device = trainer.head.train(), trainer.recipe, trainer.inputs.indices.device
    sums: dict[str, Tensor] = {}
    clips = 0
    # Shuffle
    batches = trainer.shuffled_batches()
    with dropout_source(GeneratorMasks(trainer.augment_rng)):
        # Augment: draw a view per clip and feature, drop modalities
        for batch in trainer.augmented_batches(batches):
            # Forward: the head, classification loss and auxiliary losses
            with autocast(recipe, device):
                losses = trainer.losses(batch)
            if recipe.l1:
                losses["total"] = losses["total"] + recipe.l1 * l1(head)
            # Backward
            trainer.optimiser.zero_grad(set_to_none=True)
            losses["total"].backward()
            # Step
            trainer.step(trainer.learning_rate(len(batches)))
            # Sum up, without waiting for the device
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() * len(batch.index)
            clips += len(batch.index)
    means = {name: loss / clips for name, loss in zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)}
    return EpochLosses(means.pop("total"), means)


@torch.inference_mode()
def predict(head: Head, inputs: HeadInputs, indices: Tensor, without: str | None = None) -> Tensor:
    """Logits of clips, averaged over their test views, with the head in evaluation mode.

    Args:
        head: the head.
        inputs: the features that the clips are read from.
        indices: int64 (n,), of clips.
        without: a modality to take away.

    Returns:
        float32 (n, width).
    """
    head.eval()
    logits = torch.empty(len(indices), inputs.targets.width, device=indices.device)
    for positions, views in inputs.evaluation_batches(indices):
        if without is not None:
            for batch in views:
                batch.present[without] = torch.zeros_like(positions, dtype=torch.bool)
        logits_of_views = [head(batch.prepared, batch.present)["logits"].float() for batch in views]
        logits[positions] = torch.stack(logits_of_views).mean(dim=0)
    return logits


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of matrix products: bfloat16 where the recipe and the device have it so, else float32."""
    if recipe.precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    else:
        half = recipe.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def balanced_labels(truth: Sequence[Tensor]) -> Tensor:
    """The classes that batches are balanced by, int64 (n,): those of the first target, and of clips with several
    classes the first one."""
    return truth[0] if truth[0].ndim == 1 else truth[0].int().argmax(dim=1)


def _schedule_factor(recipe: Recipe, step: int, steps: int) -> float:
    """Factor of the learning rate at a step: linear warm-up, then constant or cosine."""
    warm = recipe.warmup * steps
    if step + 1 < warm:
        return (step + 1) / warm
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, steps - warm)))) / 2
    return 1.0
