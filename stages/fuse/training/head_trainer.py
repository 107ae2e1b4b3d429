"""A head that is being trained, and its epochs. Inputs lie prepared on the device; a batch is an index into them."""

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.heads.dropout import GeneratorMasks, dropout_source
from avfuse.stages.fuse.losses.l1 import l1
from avfuse.stages.fuse.training.auxiliary_losses import AuxiliaryLosses
from avfuse.stages.fuse.training.balanced_batches import balanced_batches
from avfuse.stages.fuse.training.checkpoint import under
from avfuse.stages.fuse.training.inputs import HeadBatch, HeadInputs, rng_devices


@dataclass(frozen=True)
class EpochLosses:
    """Means over an epoch: `total` is what was followed, and `parts`, where a recipe wants more than classification,
    are the losses it is of, not weighted: `ce` and those of `AuxiliaryLosses`."""

    total: float
    parts: dict[str, float] = field(default_factory=dict)


class HeadTrainer:
    """A head, its optimiser and its own stream of random numbers: nothing outside changes what it draws."""

    def __init__(
        self,
        inputs: HeadInputs,
        truth: Sequence[Tensor],
        recipe: Recipe,
        seed: int,
        parents: Mapping[str, Head] | None = None,
        banks: FilterBanks | None = None,
    ) -> None:
        """banks: of the data set's clips, for masked learning. Raises UsageError as `AuxiliaryLosses` does."""
        device = inputs.indices.device
        with torch.random.fork_rng(devices=rng_devices(device)):
            torch.manual_seed(seed)
            self.head = inputs.head()
            self.objective = AuxiliaryLosses.of(self.head, recipe, banks)
        self.head.init_from_parents(parents or {})
        self.inputs, self.truth, self.recipe, self.seed = inputs, truth, recipe, seed
        self.order = torch.Generator().manual_seed(seed)
        self.draws = torch.Generator(device).manual_seed(seed)
        self.steps = 0
        self.epochs = self.batches_per_epoch = 0
        self.stack: StackedParameters | None = None
        parameters = [*self.head.parameters(), *(self.objective.parameters() if self.objective is not None else ())]
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)

    def batches(self) -> Sequence[Tensor]:
        """The clips it is fitted on, in a new random order, batch by batch."""
        indices = self.inputs.indices
        if self.recipe.classes_and_clips is not None:
            if self.inputs.streamed:
                raise UsageError("balanced batches need all features in memory: raise --memory, or leave balanced out")
            labels = balanced_labels(self.inputs.targets, self.truth)[indices]
            parts = balanced_batches(labels, *self.recipe.classes_and_clips, self.order)
            return [indices[part] for part in parts]
        order = torch.randperm(len(indices), generator=self.order).to(indices.device)
        return indices[order].split(self.recipe.batch_size)

    def epoch(self) -> Iterator[HeadBatch]:
        """One epoch's batches, drawn."""
        parts = self.batches()
        self.batches_per_epoch = len(parts)
        self.epochs += 1
        return self.inputs.epoch(self.recipe, self.epochs, parts, self.seed, self.draws)

    def loss(self, batch: HeadBatch) -> Tensor:
        """Scalar, the penalty on weights aside."""
        return self.losses(batch)["total"]

    def losses(self, batch: HeadBatch) -> dict[str, Tensor]:
        """The same as `total`, and with an objective what it is the weighted sum of."""
        truth = [each[batch.index] for each in self.truth]
        outputs = self.head(batch.prepared, batch.present)
        classification = self.head.loss(outputs, batch.present, truth, self.recipe.label_smoothing)
        if self.objective is None:
            return {"total": classification}
        labels = balanced_labels(self.inputs.targets, truth)
        parts = self.objective(self.head, batch, outputs, labels, self.draws)
        weighted = [weight * parts[name] for name, weight in self.objective.weights.items()]
        return {"total": sum(weighted, start=classification), "ce": classification, **parts}

    def step(self, batches: int) -> None:
        """Follow the gradients. batches: how many an epoch has."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(batches)
        self.optimiser.step()
        self.steps += 1

    def rate(self, batches: int) -> float:
        """The learning rate of the next step."""
        return self.recipe.lr * _rate(self.recipe, self.steps, batches * self.recipe.epochs)

    def state(self) -> dict[str, Tensor]:
        """All that decides how it goes on."""
        optimiser = {
            f"optimiser.{number}.{name}": value
            for number, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        objective = {} if self.objective is None else self.objective.state_dict()
        return {
            **{f"head.{name}": value for name, value in self.head.state_dict().items()},
            **{f"objective.{name}": value for name, value in objective.items()},
            **optimiser,
            "order": self.order.get_state(),
            "draws": self.draws.get_state(),
            "steps": torch.tensor(self.steps),
            "epochs": torch.tensor(self.epochs),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        if self.stack is not None:
            self.stack.unstack()
        self.head.load_state_dict(under(state, "head."))
        if self.objective is not None:
            self.objective.load_state_dict(under(state, "objective."))
        of_each: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimiser."):
                _, number, what = name.split(".")
                of_each.setdefault(int(number), {})[what] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": of_each, "param_groups": groups})
        self.order.set_state(state["order"].cpu())
        self.draws.set_state(state["draws"].cpu())
        self.steps, self.epochs = int(state["steps"]), int(state["epochs"])


class StackedParameters:
    """Heads that train together, with one optimiser: of every weight and of its moments there is one tensor for all
    heads, (heads, ...). What a head has of its own are views of these for as long as it is here."""

    def __init__(self, trainers: Sequence[HeadTrainer]) -> None:
        """Takes them out of the stacks that they are in."""
        for trainer in trainers:
            if trainer.stack is not None:
                trainer.stack.unstack()
        self._trainers = [weakref.ref(trainer) for trainer in trainers]
        own = {
            name: [trainer.head.get_parameter(name) for trainer in trainers]
            for name, _ in trainers[0].head.named_parameters()
        }
        self.weights = {name: torch.stack([each.detach() for each in same]) for name, same in own.items()}
        moments = {name: _stacked_moments(trainers, same) for name, same in own.items()}
        rates = [(trainer.recipe.lr, trainer.recipe.weight_decay) for trainer in trainers]
        self._parts = [slice(same[0], same[-1] + 1) for same in _runs_of_equals(rates)]
        groups = [
            {
                "params": [weight.detach()[part] for weight in self.weights.values()],
                "lr": rates[part.start][0],
                "weight_decay": rates[part.start][1],
            }
            for part in self._parts
        ]
        self._optimiser = torch.optim.AdamW(groups, fused=True)
        for name, same in own.items():
            for each, weight in zip(same, self.weights[name], strict=True):
                each.data = weight
        for part, group in zip(self._parts, self._optimiser.param_groups, strict=True):
            for (name, same), slices in zip(own.items(), group["params"], strict=True):
                last = trainers[part.start].optimiser.state[same[part.start]].get("step")
                step = torch.zeros((), device=slices.device) if last is None else last.clone()
                self._optimiser.state[slices] = {"step": step, **_at(part, moments[name])}
                for number in range(part.start, part.stop):
                    trainers[number].optimiser.state[same[number]] = {"step": step, **_at(number, moments[name])}
        for weight in self.weights.values():
            weight.requires_grad_()
        for trainer in trainers:
            trainer.stack = self

    def is_of(self, trainers: Sequence[HeadTrainer]) -> bool:
        """Whether it is of these, in this order."""
        return len(self._trainers) == len(trainers) and all(
            ref() is trainer for ref, trainer in zip(self._trainers, trainers, strict=True)
        )

    def follow(self, loss: Tensor, batches: int) -> None:
        """Follow the gradients of the sum of all heads' losses. batches: how many an epoch has."""
        for weight in self.weights.values():
            weight.grad = None
        loss.backward()
        trainers = self._members()
        for part, group in zip(self._parts, self._optimiser.param_groups, strict=True):
            group["lr"] = trainers[part.start].rate(batches)
            for weight, slices in zip(self.weights.values(), group["params"], strict=True):
                slices.grad = None if weight.grad is None else weight.grad[part]
        self._optimiser.step()
        for trainer in trainers:
            trainer.steps += 1

    def unstack(self) -> None:
        """Give every head its weights and moments for itself."""
        for trainer in self._members():
            for parameter in trainer.head.parameters():
                parameter.data = parameter.data.clone()
                trainer.optimiser.state[parameter] = {
                    name: value.clone() for name, value in trainer.optimiser.state[parameter].items()
                }
            trainer.stack = None

    def _members(self) -> list[HeadTrainer]:
        return [trainer for ref in self._trainers if (trainer := ref()) is not None]


def balanced_labels(targets: Targets, truth: Sequence[Tensor]) -> Tensor:
    """The classes that batches are balanced by, int64 (n,): of the first target, and where a clip has several the
    first of them."""
    return truth[0] if truth[0].ndim == 1 else truth[0].int().argmax(dim=1)


def _rate(recipe: Recipe, step: int, steps: int) -> float:
    """What the learning rate is multiplied with."""
    warm = recipe.warmup * steps
    if step + 1 < warm:
        return (step + 1) / warm
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, steps - warm)))) / 2
    return 1.0


@torch.inference_mode()
def predict(head: Head, inputs: HeadInputs, indices: Tensor, without: str | None = None) -> Tensor:
    """Logits (len(indices), width) in evaluation mode, averaged over the views that are. without: a modality that is
    taken away."""
    head.eval()
    logits = torch.empty(len(indices), inputs.targets.width, device=indices.device)
    for where, passes in inputs.evaluation_batches(indices):
        if without is not None:
            for batch in passes:
                batch.present[without] = torch.zeros_like(where, dtype=torch.bool)
        every = [head(batch.prepared, batch.present)["logits"].float() for batch in passes]
        logits[where] = torch.stack(every).mean(dim=0)
    return logits


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """In what precision products are made."""
    if recipe.precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    else:
        half = recipe.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def train_epoch(trainer: HeadTrainer) -> EpochLosses:
    """One pass over the clips. Returns mean losses."""
    if trainer.stack is not None:
        trainer.stack.unstack()
    trainer.head.train()
    device = trainer.inputs.indices.device
    sums: dict[str, Tensor] = {}
    clips = 0
    with dropout_source(GeneratorMasks(trainer.draws)):
        for batch in trainer.epoch():
            with autocast(trainer.recipe, device):
                losses = trainer.losses(batch)
            if trainer.recipe.l1:
                losses["total"] = losses["total"] + trainer.recipe.l1 * l1(trainer.head)
            trainer.optimiser.zero_grad(set_to_none=True)
            losses["total"].backward()
            trainer.step(trainer.batches_per_epoch)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() * len(batch.index)
            clips += len(batch.index)
    total, *parts = torch.stack(list(sums.values())).tolist()
    names = [name for name in sums if name != "total"]
    return EpochLosses(total / clips, {name: each / clips for name, each in zip(names, parts, strict=True)})


def _runs_of_equals(values: Sequence[Any]) -> list[list[int]]:
    """Numbers of neighbours that are equal."""
    return [list(same) for _, same in groupby(range(len(values)), key=values.__getitem__)]


def _stacked_moments(trainers: Sequence[HeadTrainer], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Of the gradients of one weight, by name, (heads, ...); zeros before the first step."""
    states = [trainer.optimiser.state[parameter] for trainer, parameter in zip(trainers, parameters, strict=True)]
    return {
        name: torch.stack(
            [state.get(name, torch.zeros_like(parameter)) for state, parameter in zip(states, parameters, strict=True)]
        )
        for name in ("exp_avg", "exp_avg_sq")
    }


def _at(which: int | slice, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each[which] for name, each in moments.items()}
