"""Training heads: the epoch chosen on validation, then a refit on all of train."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.fuse.data import FusionData
from stages.fuse.fitting import Fit, Inputs, predict, train_epoch
from stages.fuse.heads import Head, get_head
from stages.fuse.heads.base import Optimisation
from stages.fuse.losses import loss_of_targets
from stages.fuse.metrics import mean_average_precision
from stages.fuse.targets import Targets


@dataclass(frozen=True)
class Training:
    """How to train: None takes the head's own default. `shuffle_labels` permutes the training labels, a control under
    which every head must fall to chance."""

    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    shuffle_labels: bool = False

    def resolve(self, head: str) -> Optimisation:
        given = {key: value for key, value in asdict(self).items() if value is not None and key != "shuffle_labels"}
        return replace(get_head(head).optimisation, **given)


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curve; losses are mean cross-entropy, the score is that of Targets.selection."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_score: float


@dataclass(frozen=True)
class Trained:
    """A head refitted on all of train, and how it got there. Logits float32 (n, width) in the order of data.test, and
    of data.unlabelled."""

    head: Head
    curve: list[Epoch]
    best_epoch: int
    logits: NDArray[np.float32]
    unlabelled_logits: NDArray[np.float32]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.head.parameters())


def train_head(
    name: str, data: FusionData, seed: int, training: Training, on_epoch: Callable[[], Any] = lambda: None
) -> Trained:
    """Train one head from one seed, as `train_heads` does."""
    return train_heads(name, data, [seed], training, on_epoch)[0]


def train_heads(
    name: str, data: FusionData, seeds: Sequence[int], training: Training, on_epoch: Callable[[], Any] = lambda: None
) -> list[Trained]:
    """Train heads that differ in their seeds, side by side where that is faster.

    A head's order of clips and its dropout are drawn from its own seed, so that it comes out the same in any company,
    up to the rounding of sums. The number of epochs is the one with the best validation accuracy (the lower loss among
    equals; what Targets calls selection); the head is then trained afresh for so many epochs on train and validation
    together. The test split and unlabelled clips are only read at the end. on_epoch is called after every epoch of
    every head.
    """
    optimisation = training.resolve(name)
    truths = [_shuffled(data, seed) if training.shuffle_labels else data.truth for seed in seeds]
    curves = _find_epochs(name, data, truths, seeds, optimisation, on_epoch)
    best = [_best(curve) for curve in curves]
    inputs = Inputs.of(name, data, torch.cat([data.train, data.validation]))
    fits = [Fit(inputs, truth, optimisation, seed) for truth, seed in zip(truths, seeds, strict=True)]
    for epoch in range(max(best)):
        for _ in train_epoch([fit for fit, last in zip(fits, best, strict=True) if epoch < last]):
            on_epoch()
    return [
        Trained(
            fit.head,
            curve,
            last,
            *(predict(fit.head, inputs, part).cpu().numpy() for part in (data.test, data.unlabelled)),
        )
        for fit, curve, last in zip(fits, curves, best, strict=True)
    ]


def _find_epochs(
    name: str,
    data: FusionData,
    truths: Sequence[Sequence[Tensor]],
    seeds: Sequence[int],
    optimisation: Optimisation,
    on_epoch: Callable[[], Any],
) -> list[list[Epoch]]:
    """Learning curves on train, each until its validation has not improved for a while."""
    inputs = Inputs.of(name, data, data.train)
    fits = [Fit(inputs, truth, optimisation, seed) for truth, seed in zip(truths, seeds, strict=True)]
    curves: list[list[Epoch]] = [[] for _ in fits]
    running = list(range(len(fits)))
    for epoch in range(1, optimisation.epochs + 1):
        for index, train_loss in zip(running, train_epoch([fits[index] for index in running]), strict=True):
            expected = [each[data.validation] for each in truths[index]]
            validation = predict(fits[index].head, inputs, data.validation)
            loss = loss_of_targets(data.targets, validation, expected).item()
            curves[index].append(Epoch(epoch, train_loss, loss, _score(data.targets, validation, expected)))
            on_epoch()
        running = [index for index in running if epoch - _best(curves[index]) < optimisation.patience]
        if not running:
            break
    return curves


def _best(curve: list[Epoch]) -> int:
    return max(curve, key=lambda epoch: (epoch.validation_score, -epoch.validation_loss, -epoch.epoch)).epoch


def _score(targets: Targets, logits: Tensor, truth: Sequence[Tensor]) -> float:
    """How good predictions are by the measure Targets.selection. logits (B, width)."""
    if targets.selection == "map":
        return mean_average_precision(logits.cpu().numpy(), truth[0].cpu().numpy())
    right = []
    for part, true in zip(targets.split(logits), truth, strict=True):
        guess = part.argmax(dim=1)
        right.append(guess == true if true.ndim == 1 else true.gather(1, guess[:, None])[:, 0])
    return torch.stack(right).all(dim=0).float().mean().item()


def _shuffled(data: FusionData, seed: int) -> list[Tensor]:
    """The truth with that of train and validation permuted among themselves, all targets of a clip together; that of
    test stays."""
    fitted = torch.cat([data.train, data.validation])
    order = torch.randperm(len(fitted), generator=torch.Generator().manual_seed(seed)).to(fitted.device)
    shuffled = [each.clone() for each in data.truth]
    for each, original in zip(shuffled, data.truth, strict=True):
        each[fitted] = original[fitted[order]]
    return shuffled
