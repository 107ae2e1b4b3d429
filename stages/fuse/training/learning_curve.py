"""The learning curve of a head on validation: which epoch is best, and when to stop."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.metrics import mean_average_precision
from avfuse.stages.fuse.losses import multi_target_loss
from avfuse.stages.fuse.training.head_trainer import EpochLosses


@dataclass(frozen=True)
class Epoch:
    """Point of the learning curve."""

    epoch: int
    """Number of the epoch, from 1."""
    train_loss: float
    """Mean cross-entropy; with auxiliary losses the weighted sum of `parts`."""
    validation_loss: float
    """Mean cross-entropy."""
    validation_score: float
    """Score on validation clips, by the measure Targets.selection."""
    parts: dict[str, float] = field(default_factory=dict)
    """The unweighted terms of the training loss, with auxiliary losses."""

    @classmethod
    def of(cls, number: int, losses: EpochLosses, targets: Targets, logits: Tensor, truth: Sequence[Tensor]) -> "Epoch":
        """An epoch with its loss and score on validation.

        Args:
            number: of the epoch.
            losses: on train.
            targets: to learn.
            logits: of the validation clips, (n, width).
            truth: of the validation clips, one tensor per target.
        """
        loss = multi_target_loss(targets, logits, truth).item()
        return cls(number, losses.total, loss, selection_score(targets, logits, truth), losses.parts)

    def row(self) -> dict[str, float]:
        """The row of a table, with a column per part."""
        row = asdict(self)
        parts = row.pop("parts")
        return {**row, **{f"train_{name}": loss for name, loss in parts.items()}}


def best_epoch(curve: Sequence[Epoch]) -> Epoch:
    """The epoch with the best validation score; among equals the lower loss, then the earlier one."""
    return max(curve, key=lambda epoch: (epoch.validation_score, -epoch.validation_loss, -epoch.epoch))


def should_continue(curve: Sequence[Epoch], recipe: Recipe, epoch: int) -> bool:
    """Whether a head trains in this epoch: it has not stopped before, and its patience has not run out."""
    return not curve or (curve[-1].epoch == epoch - 1 and epoch - 1 - best_epoch(curve).epoch < recipe.patience)


def selection_score(targets: Targets, logits: Tensor, truth: Sequence[Tensor]) -> float:
    """The validation score by the measure Targets.selection. logits (n, width); truth: one tensor per target."""
    if targets.selection == "map":
        return mean_average_precision(logits.cpu().numpy(), truth[0].cpu().numpy())
    correct = []
    for target_logits, target in zip(targets.split(logits), truth, strict=True):
        guess = target_logits.argmax(dim=1)
        correct.append(guess == target if target.ndim == 1 else target.gather(1, guess[:, None])[:, 0])
    return torch.stack(correct).all(dim=0).float().mean().item()
