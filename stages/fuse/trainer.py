"""Training one head: epochs over index batches, the epoch chosen on validation, then a refit on all of train."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.fuse.data import FusionData
from stages.fuse.heads import Head, ModalityShape, build_head, get_head
from stages.fuse.heads.base import Optimisation
from stages.fuse.losses import loss_of_targets
from stages.fuse.metrics import mean_average_precision
from stages.fuse.targets import Targets

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
    """Train one head from one seed.

    The number of epochs is the one with the best validation accuracy (the lower loss among equals; what Targets calls
    selection); the head is then trained afresh for so many epochs on train and validation together. The test split and
    unlabelled clips are only read at the end.
    """
    optimisation = training.resolve(name)
    truth = _shuffled(data, seed) if training.shuffle_labels else data.truth
    expected = [each[data.validation] for each in truth]
    curve: list[Epoch] = []
    fit = _Fit(name, data, truth, data.train, optimisation, seed)
    for epoch in range(1, optimisation.epochs + 1):
        train_loss = fit.epoch()
        validation = predict(fit.head, data, data.validation)
        loss = loss_of_targets(data.targets, validation, expected).item()
        curve.append(Epoch(epoch, train_loss, loss, _score(data.targets, validation, expected)))
        on_epoch()
        if epoch - _best(curve) >= optimisation.patience:
            break
    refit = _Fit(name, data, truth, torch.cat([data.train, data.validation]), optimisation, seed)
    for _ in range(_best(curve)):
        refit.epoch()
        on_epoch()
    logits, unlabelled = (predict(refit.head, data, part).cpu().numpy() for part in (data.test, data.unlabelled))
    return Trained(refit.head, curve, _best(curve), logits, unlabelled)


@torch.inference_mode()
def predict(head: Head, data: FusionData, indices: Tensor) -> Tensor:
    """Logits (len(indices), width) in evaluation mode."""
    head.eval()
    if not len(indices):
        return torch.empty(0, data.targets.width)
    return torch.cat([head(*_batch(data, part))["logits"] for part in indices.split(_EVALUATION_BATCH)])


class _Fit:
    """A head, its optimiser and its own stream of random numbers: nothing outside changes what it draws."""

    def __init__(
        self,
        name: str,
        data: FusionData,
        truth: Sequence[Tensor],
        indices: Tensor,
        optimisation: Optimisation,
        seed: int,
    ) -> None:
        device = indices.device
        shapes = {key: ModalityShape(modality.length, modality.dim) for key, modality in data.modalities.items()}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.head = build_head(name, shapes, data.targets).to(device)
            self._random_state = torch.get_rng_state()
        self.head.fit_inputs(*_batch(data, indices))
        self._data, self._truth, self._indices = data, truth, indices
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
                truth = [each[batch] for each in self._truth]
                loss = self.head.loss(self.head(tokens, present), present, truth)
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
