"""Epochs of one head, or of several in one pass.

Inputs lie prepared on the device and a batch is an index into them. Heads that differ only in their numbers can share
one pass: their weights are stacked, and every product becomes a batch of products.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from features.errors import UsageError
from stages.fuse.checkpoint import under
from stages.fuse.data import FusionData
from stages.fuse.draws import Given, Own, Recorder, drawn, using
from stages.fuse.heads import Head, build_head, get_head
from stages.fuse.hidden import Banks
from stages.fuse.losses.penalty import l1, l1_weights
from stages.fuse.objective import Objective, asked
from stages.fuse.prepared import Batch, Inputs, forked
from stages.fuse.recipe import Recipe, Settings
from stages.fuse.sampling import balanced_batches
from stages.fuse.targets import Targets

TOGETHER_PARAMETERS = 6_000_000
"""On a CPU, five heads with fewer parameters than this are faster side by side, as one head's products do not fill the
cores. Measured on two: with 1.5 million 1.4 to 1.8 times as fast, with 10 million no faster."""

TOGETHER_PARAMETERS_GPU = 20_000_000
"""On a GPU small products leave most of it idle. 32 of the largest heads that share a pass take 10 GB with gradients
and moments."""

SIDE_BY_SIDE = 32
"""So many heads at most share a pass."""


@dataclass(frozen=True)
class Losses:
    """Means over an epoch: `total` is what was followed, and `parts`, where a recipe wants more than classification,
    are the losses it is of, not weighted: `ce` and those of `Objective`."""

    total: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stack:
    """Heads that train together, and their weights by name, (heads, ...)."""

    heads: list[Head]
    weights: dict[str, Tensor]


class Fit:
    """A head, its optimiser and its own stream of random numbers: nothing outside changes what it draws."""

    def __init__(
        self,
        inputs: Inputs,
        truth: Sequence[Tensor],
        recipe: Recipe,
        seed: int,
        parents: Mapping[str, Head] | None = None,
        banks: Banks | None = None,
    ) -> None:
        """banks: of the data set's clips, for masked learning. Raises UsageError as `Objective` does."""
        device = inputs.indices.device
        with torch.random.fork_rng(devices=forked(device)):
            torch.manual_seed(seed)
            self.head = inputs.head()
            self.objective = Objective.of(self.head, recipe, banks)
        self.head.start_from(parents or {})
        self.inputs, self.truth, self.recipe, self.seed = inputs, truth, recipe, seed
        self.order = torch.Generator().manual_seed(seed)
        self.draws = torch.Generator(device).manual_seed(seed)
        self.steps = 0
        self.epochs = self.batches_per_epoch = 0
        self.stack: Stack | None = None
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

    def epoch(self) -> Iterator[Batch]:
        """One epoch's batches, drawn."""
        parts = self.batches()
        self.batches_per_epoch = len(parts)
        self.epochs += 1
        return self.inputs.epoch(self.recipe, self.epochs, parts, self.seed, self.draws)

    def loss(self, batch: Batch) -> Tensor:
        """Scalar, the penalty on weights aside."""
        return self.losses(batch)["total"]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
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
            group["lr"] = self.recipe.lr * _rate(self.recipe, self.steps, batches * self.recipe.epochs)
        self.optimiser.step()
        self.steps += 1

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


def train_epoch(fits: Sequence[Fit]) -> list[Losses]:
    """One pass over the clips for every head. Several are of one kind, with inputs of the same shapes, and recipes that
    differ in nothing but PER_HEAD. Returns their mean losses."""
    if len(fits) > 1 and _share_a_pass(fits[0]):
        return _together(fits)
    return [_alone(fit) for fit in fits]


def _share_a_pass(fit: Fit) -> bool:
    plain = fit.objective is None and not fit.inputs.streamed
    return plain and is_faster_together(fit.head, fit.inputs.indices.device)


@torch.inference_mode()
def predict(head: Head, inputs: Inputs, indices: Tensor, without: str | None = None) -> Tensor:
    """Logits (len(indices), width) in evaluation mode, averaged over the views that are. without: a modality that is
    taken away."""
    head.eval()
    logits = torch.empty(len(indices), inputs.targets.width, device=indices.device)
    for where, passes in inputs.at_test(indices):
        if without is not None:
            for batch in passes:
                batch.present[without] = torch.zeros_like(where, dtype=torch.bool)
        every = [head(batch.prepared, batch.present)["logits"].float() for batch in passes]
        logits[where] = torch.stack(every).mean(dim=0)
    return logits


def trains_together(name: str, data: FusionData, options: Settings, recipe: Recipe) -> bool:
    """Whether heads of this kind share passes over this data set. Those with an objective beside classification do not:
    which clips take part in it is another number for each of them."""
    if asked(recipe) or data.streamed.keys() & set(get_head(name).sees(options)):
        return False
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        head = build_head(name, data.shapes, data.targets, options)
    return is_faster_together(head, data.train.device)


def is_faster_together(head: Head, device: torch.device) -> bool:
    """Attention has no batched form on a CPU."""
    parameters = sum(each.numel() for each in head.parameters())
    if device.type == "cpu":
        attends = any(isinstance(module, nn.MultiheadAttention) for module in head.modules())
        return parameters < TOGETHER_PARAMETERS and not attends
    return parameters < TOGETHER_PARAMETERS_GPU


def _products(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """In what precision products are made."""
    if recipe.precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    else:
        half = recipe.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def _alone(fit: Fit) -> Losses:
    fit.head.train()
    device = fit.inputs.indices.device
    sums: dict[str, Tensor] = {}
    clips = 0
    with using(Own(fit.draws)):
        for batch in fit.epoch():
            with _products(fit.recipe, device):
                losses = fit.losses(batch)
            if fit.recipe.l1:
                losses["total"] = losses["total"] + fit.recipe.l1 * l1(fit.head)
            fit.optimiser.zero_grad(set_to_none=True)
            losses["total"].backward()
            fit.step(fit.batches_per_epoch)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() * len(batch.index)
            clips += len(batch.index)
    total, *parts = torch.stack(list(sums.values())).tolist()
    names = [name for name in sums if name != "total"]
    return Losses(total / clips, {name: each / clips for name, each in zip(names, parts, strict=True)})


def _together(fits: Sequence[Fit]) -> list[Losses]:
    heads, recipe = [fit.head.train() for fit in fits], fits[0].recipe
    device = fits[0].inputs.indices.device
    stacked = _stack(fits)
    totals, clips = torch.zeros(len(fits), device=device), 0
    asked: dict[int, list[tuple[torch.Size, torch.dtype, float]]] = {}
    weights = torch.tensor([fit.recipe.l1 for fit in fits], device=device)
    penalised = l1_weights(heads[0]) if weights.any() else []

    def losses(
        parameters: dict[str, Tensor],
        prepared: dict[str, Tensor],
        present: dict[str, Tensor | None],
        truth: list[Tensor],
        masks: list[Tensor],
        weight: Tensor,
    ) -> Tensor:
        with using(Given(masks)), _products(recipe, device):
            outputs = functional_call(heads[0], parameters, (prepared, present))
            loss = heads[0].loss(outputs, present, truth, recipe.label_smoothing)
        return loss + weight * sum(parameters[name].abs().sum() for name in penalised) if penalised else loss

    own = {name: [head.get_parameter(name) for head in heads] for name in stacked}
    every = [fit.batches() for fit in fits]
    for parts in zip(*every, strict=True):
        prepared, present = _stacked_rows(fits, parts)
        truth = [
            torch.stack([each[part] for each, part in zip(same, parts, strict=True)])
            for same in zip(*(fit.truth for fit in fits), strict=True)
        ]
        count = len(parts[0])
        if count not in asked:
            with _products(recipe, device):
                asked[count] = _masks_asked(heads[0], fits[0].inputs.rows(parts[0]))
        masks = [
            torch.stack(each)
            for each in zip(*([drawn(*one, fit.draws) for one in asked[count]] for fit in fits), strict=True)
        ]
        has = {name: None if mask is None else 0 for name, mask in present.items()}
        loss = vmap(losses, in_dims=(0, 0, has, 0, 0, 0))(stacked, prepared, present, truth, masks, weights)
        for tensor in stacked.values():
            tensor.grad = None
        loss.sum().backward()
        for name, together in stacked.items():
            for parameter, gradient in zip(
                own[name], [None] * len(heads) if together.grad is None else together.grad, strict=True
            ):
                parameter.grad = gradient
        for fit in fits:
            fit.step(len(every[0]))
        totals += loss.detach() * count
        clips += count
    return [Losses(total) for total in (totals / clips).tolist()]


def _stacked_rows(fits: Sequence[Fit], parts: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """One batch of each head: prepared (heads, B, ...), and masks where any of the heads has one."""
    rows = [fit.inputs.drawn(part, fit.recipe, fit.draws) for fit, part in zip(fits, parts, strict=True)]
    prepared = {name: torch.stack([each.prepared[name] for each in rows]) for name in rows[0].prepared}
    present: dict[str, Tensor | None] = {}
    for name in prepared:
        masks = [each.present[name] for each in rows]
        everyone = torch.ones_like(parts[0], dtype=torch.bool)
        stacked = torch.stack([everyone if mask is None else mask for mask in masks])
        present[name] = None if all(mask is None for mask in masks) else stacked
    return prepared, present


def _stack(fits: Sequence[Fit]) -> dict[str, Tensor]:
    """All heads' weights by name, (heads, ...). The heads' own become views of them, and stay so for as long as the
    same heads train together."""
    heads, last = [fit.head for fit in fits], fits[0].stack
    if last is not None and last.heads == heads and all(fit.stack is last for fit in fits):
        return last.weights
    weights = {}
    for name, _ in heads[0].named_parameters():
        same = [head.get_parameter(name) for head in heads]
        together = torch.stack([each.detach() for each in same])
        for each, own in zip(same, together, strict=True):
            each.data = own
        weights[name] = together.requires_grad_()
    shared = Stack(heads, weights)
    for fit in fits:
        fit.stack = shared
    return weights


@torch.no_grad()
def _masks_asked(head: Head, batch: Batch) -> list[tuple[torch.Size, torch.dtype, float]]:
    recorder = Recorder()
    with using(recorder):
        head(batch.prepared, batch.present)
    return recorder.asked
