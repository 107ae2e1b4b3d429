"""Training job of one head: its class, data, seed and recipe."""

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import torch

from avfuse.moved_modules import renamed
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.training.auxiliary_losses import check_auxiliary_losses
from avfuse.stages.fuse.training.balanced_batches import balanced_batches
from avfuse.stages.fuse.training.head_trainer import balanced_labels
from avfuse.stages.fuse.training.overrides import TrainingOverrides


@dataclass(frozen=True)
class TrainingJob:
    """A head to train, from one seed."""

    head: str
    """Its registered name."""
    data: FusionData
    seed: int
    recipe: Recipe
    """The head's own with the user's settings, as `TrainingOverrides.recipe` gives it."""
    options: Settings
    """Likewise the head's `Options`."""
    shuffle_labels: bool = False
    """A control: with permuted training labels the head must fall to chance."""

    @classmethod
    def of(cls, head: str, data: FusionData, seed: int, training: TrainingOverrides) -> "TrainingJob":
        return cls(head, data, seed, training.recipe(head), training.options(head), training.shuffle_labels)

    def check(self) -> None:
        """Raises UsageError where the head or the clips lack what the recipe needs, before anything is trained."""
        data, recipe = self.data, self.recipe
        check_auxiliary_losses(self.head, data.shapes, data.targets, self.options, recipe, data.banks)
        if recipe.classes_and_clips is not None:
            labels = balanced_labels(data.truth)[data.train]
            balanced_batches(labels, *recipe.classes_and_clips, torch.Generator())

    @property
    def key(self) -> str:
        """A hash of all that the trained head depends on."""
        content = {
            "data": self.data.fingerprint_of(get_head(self.head).used_modalities(self.options)),
            "head": [self.head, get_head(self.head).revision],
            "recipe": self.recipe.model_dump(),
            "options": self.options.model_dump(),
            "shuffle_labels": self.shuffle_labels,
            "seed": self.seed,
        }
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def parents(self) -> dict[str, "TrainingJob"]:
        """Jobs of the heads that this one starts from, by name. They keep their own recipes but inherit epochs, batch
        size, weight decay and inputs."""
        inherited = {"weight_decay", "batch_size", "epochs", "patience", "without", "views", "precision"}
        shared = {
            **self.recipe.model_dump(include=inherited),
            **get_head(self.head).parent_recipe_overrides(self.options),
        }
        return {
            name: replace(self, head=name, options=options, recipe=get_head(name).recipe.model_copy(update=shared))
            for name, options in get_head(self.head).parents(self.options).items()
        }


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Plan": "TrainingJob"})
