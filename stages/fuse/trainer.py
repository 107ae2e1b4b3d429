"""Training one head: epochs over index batches, the epoch chosen on validation, then a refit on all of train."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.fuse.data import FusionData
from stages.fuse.heads import Head, ModalityShape, build_head, get_head
from stages.fuse.heads.base import Optimisation
from stages.fuse.losses import cross_entropy

_EVALUATION_BATCH = 1024


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
    """One line of the learning curve; losses are mean cross-entropy, accuracies shares of 1."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_top1: float


@dataclass(frozen=True)
class Trained:
    """A head refitted on all of train, and how it got there. `logits` float32 (n_test, C) in the order of data.test."""

    head: Head
    curve: list[Epoch]
    best_epoch: int
    logits: NDArray[np.float32]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.head.parameters())


def train_head(
    name: str, data: FusionData, seed: int, training: Training, on_epoch: Callable[[], Any] = lambda: None
) -> Trained:
    """Train one head from one seed.

    The number of epochs is the one with the best validation accuracy (the lower loss among equals); the head is then
    trained afresh for so many epochs on train and validation together. The test split is only read at the end.
    """
    optimisation = training.resolve(name)
    targets = _shuffled(data, seed) if training.shuffle_labels else data.targets
    curve: list[Epoch] = []
    fit = _Fit(name, data, targets, data.train, optimisation, seed)
    for epoch in range(1, optimisation.epochs + 1):
        train_loss = fit.epoch()
        validation = predict(fit.head, data, data.validation)
        expected = targets[data.validation]
        curve.append(
            Epoch(
                epoch,
                train_loss,
                cross_entropy(validation, expected).item(),
                (validation.argmax(dim=1) == expected).float().mean().item(),
            )
        )
        on_epoch()
        if epoch - _best(curve) >= optimisation.patience:
            break
    refit = _Fit(name, data, targets, torch.cat([data.train, data.validation]), optimisation, seed)
    for _ in range(_best(curve)):
        refit.epoch()
        on_epoch()
    logits = predict(refit.head, data, data.test).cpu().numpy()
    return Trained(refit.head, curve, _best(curve), logits)


@torch.inference_mode()
def predict(head: Head, data: FusionData, indices: Tensor) -> Tensor:
    """Logits (len(indices), C) in evaluation mode."""
    head.eval()
    return torch.cat([head(*_batch(data, part))["logits"] for part in indices.split(_EVALUATION_BATCH)])


class _Fit:
    """A head, its optimiser and its own stream of random numbers: nothing outside changes what it draws."""

    def __init__(
        self, name: str, data: FusionData, targets: Tensor, indices: Tensor, optimisation: Optimisation, seed: int
    ) -> None:
        device = data.targets.device
        shapes = {key: ModalityShape(modality.length, modality.dim) for key, modality in data.modalities.items()}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.head = build_head(name, shapes, len(data.classes)).to(device)
            self._random_state = torch.get_rng_state()
        self.head.fit_inputs(*_batch(data, indices))
        self._data, self._targets, self._indices = data, targets, indices
        self._batch_size = optimisation.batch_size
        self._optimiser = torch.optim.AdamW(
            self.head.parameters(), lr=optimisation.learning_rate, weight_decay=optimisation.weight_decay, fused=True
        )

    def epoch(self) -> float:
        """One pass over the training clips in a new random order. Returns the mean loss."""
        self.head.train()
        device = self._indices.device
        total = 0.0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.set_rng_state(self._random_state)
            order = self._indices[torch.randperm(len(self._indices)).to(device)]
            for batch in order.split(self._batch_size):
                tokens, present = _batch(self._data, batch)
                loss = self.head.loss(self.head(tokens, present), present, self._targets[batch])
                self._optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self._optimiser.step()
                total += loss.item() * len(batch)
            self._random_state = torch.get_rng_state()
        return total / len(order)


def _batch(data: FusionData, indices: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    tokens = {name: modality.tokens[indices] for name, modality in data.modalities.items()}
    present = {name: modality.present[indices] for name, modality in data.modalities.items()}
    return tokens, present


def _best(curve: list[Epoch]) -> int:
    return max(curve, key=lambda epoch: (epoch.validation_top1, -epoch.validation_loss, -epoch.epoch)).epoch


def _shuffled(data: FusionData, seed: int) -> Tensor:
    """Targets with those of train and validation permuted among themselves; test targets stay."""
    targets = data.targets.clone()
    fitted = torch.cat([data.train, data.validation])
    order = torch.randperm(len(fitted), generator=torch.Generator().manual_seed(seed)).to(fitted.device)
    targets[fitted] = data.targets[fitted[order]]
    return targets
