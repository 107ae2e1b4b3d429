"""Epochs of one head, or of several in one pass.

Inputs lie prepared on the device and a batch is an index into them. Heads that differ only in their numbers can share
one pass: their weights are stacked, and every product becomes a batch of products.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from stages.fuse.data import FusionData
from stages.fuse.draws import Given, Own, Recorder, drawn, using
from stages.fuse.heads import Head, ModalityShape, build_head
from stages.fuse.heads.base import Masks
from stages.fuse.losses.penalty import l1, l1_weights
from stages.fuse.recipe import Recipe, Settings
from stages.fuse.sampling import balanced_batches
from stages.fuse.targets import Targets

_EVALUATION_BATCH = 1024

TOGETHER_PARAMETERS = 1_000_000
"""On a CPU, heads with fewer parameters than this are faster side by side: one head's products do not fill the cores.
Of larger ones the optimiser's passes through memory take most of the time, which no company shortens."""

SIDE_BY_SIDE = 32
"""So many heads at most share a pass."""


@dataclass(frozen=True)
class Batch:
    """Clips at index (B,) of the data set, prepared, and which have what."""

    index: Tensor
    prepared: dict[str, Tensor]
    present: dict[str, Tensor | None]


@dataclass(frozen=True)
class Stored:
    """One modality of every clip on the device: float32 (n, ...), prepared, or with cached views (n, V, T, D),
    standardised, of which `at_test` are averaged at test. parts: how many tokens are of one feature each, which are
    drawn independently."""

    rows: Tensor
    views: int = 1
    at_test: tuple[int, ...] = (0,)
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """A data set as one kind of head takes it, standardised by the clips at `indices`, which it is fitted on."""

    template: Head
    options: Settings
    stored: Mapping[str, Stored]
    present: Masks
    indices: Tensor

    @classmethod
    def of(cls, name: str, data: FusionData, indices: Tensor, options: Settings, recipe: Recipe) -> "Inputs":
        device = indices.device
        with torch.random.fork_rng(devices=_forked(device)):
            head = build_head(name, data.shapes, data.targets, options).to(device)
        present: dict[str, Tensor | None] = {}
        stored = {}
        for key, door in head.doors().items():
            modality = data.modalities[key]
            door.fit(modality.tokens[indices], modality.present[indices])
            if modality.views is None or not recipe.views:
                stored[key] = Stored(_in_parts(modality.tokens, modality.present, door.prepare))
            else:
                views = [_in_parts(view, modality.present, door.standardise) for view in modality.views.unbind(1)]
                stored[key] = Stored(torch.stack(views, dim=1), len(views), modality.at_test, modality.parts)
            here = modality.present if recipe.without != key else torch.zeros_like(modality.present)
            present[key] = None if here.all() else here
        return cls(head.eval(), options, stored, present, indices)

    @property
    def targets(self) -> Targets:
        return self.template.targets

    @property
    def shapes(self) -> Mapping[str, ModalityShape]:
        """Of the modalities that the head sees."""
        return {name: door.shape for name, door in self.template.doors().items()}

    def head(self) -> Head:
        """A freshly initialised head with these statistics."""
        name = self.template.name
        head = build_head(name, self.shapes, self.targets, self.options).to(self.indices.device)
        statistics = {key: value for key, value in self.template.state_dict().items() if key in _buffers(self.template)}
        head.load_state_dict(statistics, strict=False)
        return head

    @property
    def passes_at_test(self) -> int:
        """How many views of a clip are averaged."""
        return max(len(each.at_test) for each in self.stored.values())

    def rows(self, indices: Tensor, number: int = 0) -> Batch:
        """The clips at indices (B,), prepared, as at test: the view of pass `number`."""
        prepared = {}
        for name, each in self.stored.items():
            which = each.at_test[number % len(each.at_test)]
            prepared[name] = each.rows[indices] if each.views == 1 else self._shaped(name, each.rows[indices, which])
        return Batch(indices, prepared, self._present(indices))

    def drawn_rows(self, indices: Tensor, recipe: Recipe, draws: torch.Generator) -> Batch:
        """The same for training: of cached views one is drawn for each clip and feature, and of clips with both
        modalities some lose one."""
        prepared = {}
        for name, each in self.stored.items():
            if each.views == 1:
                prepared[name] = each.rows[indices]
                continue
            chosen = torch.randint(each.views, (len(indices), len(each.parts)), generator=draws, device=draws.device)
            of_tokens = chosen.repeat_interleave(torch.tensor(each.parts, device=chosen.device), dim=1)
            tokens = torch.arange(of_tokens.shape[1], device=chosen.device)
            prepared[name] = self._shaped(name, each.rows[indices[:, None], of_tokens, tokens])
        present = self._present(indices)
        if recipe.modality_dropout and len(present) == 2:
            present = _drop_one(present, indices, recipe.modality_dropout, draws)
        return Batch(indices, prepared, present)

    def _present(self, indices: Tensor) -> dict[str, Tensor | None]:
        return {key: None if mask is None else mask[indices] for key, mask in self.present.items()}

    def _shaped(self, name: str, standardised: Tensor) -> Tensor:
        return self.template.doors()[name].shaped(standardised)


def _in_parts(tokens: Tensor, present: Tensor, prepare: Any) -> Tensor:
    """Clips some at a time, so that what is made on the way is never large."""
    parts = zip(tokens.split(_EVALUATION_BATCH), present.split(_EVALUATION_BATCH), strict=True)
    return torch.cat([prepare(*part) for part in parts])


def _drop_one(
    present: Mapping[str, Tensor | None], indices: Tensor, share: float, draws: torch.Generator
) -> dict[str, Tensor | None]:
    (one, of_one), (other, of_other) = (
        (name, torch.ones_like(indices, dtype=torch.bool) if mask is None else mask) for name, mask in present.items()
    )
    chance = torch.rand(len(indices), generator=draws, device=draws.device)
    both = of_one & of_other
    return {one: of_one & ~(both & (chance < share / 2)), other: of_other & ~(both & (chance > 1 - share / 2))}


class Fit:
    """A head, its optimiser and its own stream of random numbers: nothing outside changes what it draws."""

    def __init__(
        self,
        inputs: Inputs,
        truth: Sequence[Tensor],
        recipe: Recipe,
        seed: int,
        parents: Mapping[str, Head] | None = None,
    ) -> None:
        device = inputs.indices.device
        with torch.random.fork_rng(devices=_forked(device)):
            torch.manual_seed(seed)
            self.head = inputs.head()
        self.head.start_from(parents or {})
        self.inputs, self.truth, self.recipe = inputs, truth, recipe
        self.order = torch.Generator().manual_seed(seed)
        self.draws = torch.Generator(device).manual_seed(seed)
        self.steps = 0
        self.batches_per_epoch = 0
        self.optimiser = torch.optim.AdamW(
            self.head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )

    def batches(self) -> Sequence[Tensor]:
        """The clips it is fitted on, in a new random order, batch by batch."""
        indices = self.inputs.indices
        if self.recipe.balanced is not None:
            classes, clips = map(int, self.recipe.balanced.split("x"))
            labels = balanced_labels(self.inputs.targets, self.truth)[indices]
            return [indices[part] for part in balanced_batches(labels, classes, clips, self.order)]
        order = torch.randperm(len(indices), generator=self.order).to(indices.device)
        return indices[order].split(self.recipe.batch_size)

    def epoch(self) -> Iterator[Batch]:
        """One epoch's batches, drawn."""
        parts = self.batches()
        self.batches_per_epoch = len(parts)
        for part in parts:
            yield self.inputs.drawn_rows(part, self.recipe, self.draws)

    def loss(self, batch: Batch) -> Tensor:
        """Scalar, the penalty on weights aside."""
        truth = [each[batch.index] for each in self.truth]
        outputs = self.head(batch.prepared, batch.present)
        return self.head.loss(outputs, batch.present, truth, self.recipe.label_smoothing)

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
        return {
            **{f"head.{name}": value for name, value in self.head.state_dict().items()},
            **optimiser,
            "order": self.order.get_state(),
            "draws": self.draws.get_state(),
            "steps": torch.tensor(self.steps),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        own = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
        self.head.load_state_dict(own)
        of_each: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimiser."):
                _, number, what = name.split(".")
                of_each.setdefault(int(number), {})[what] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": of_each, "param_groups": groups})
        self.order.set_state(state["order"].cpu())
        self.draws.set_state(state["draws"].cpu())
        self.steps = int(state["steps"])


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


def train_epoch(fits: Sequence[Fit]) -> list[float]:
    """One pass over the clips for every head. Several are of one kind, with inputs of the same shapes, and recipes that
    differ in nothing but what `company` leaves out. Returns their mean losses."""
    if len(fits) > 1 and is_faster_together(fits[0].head, fits[0].inputs.indices.device):
        return _together(fits)
    return [_alone(fit) for fit in fits]


@torch.inference_mode()
def predict(head: Head, inputs: Inputs, indices: Tensor, without: str | None = None) -> Tensor:
    """Logits (len(indices), width) in evaluation mode, averaged over the views that are. without: a modality that is
    taken away."""
    head.eval()
    if not len(indices):
        return torch.empty(0, inputs.targets.width)
    return torch.cat([_predict_part(head, inputs, part, without) for part in indices.split(_EVALUATION_BATCH)])


def _predict_part(head: Head, inputs: Inputs, part: Tensor, without: str | None) -> Tensor:
    every = []
    for number in range(inputs.passes_at_test):
        batch = inputs.rows(part, number)
        if without is not None:
            batch.present[without] = torch.zeros_like(part, dtype=torch.bool)
        every.append(head(batch.prepared, batch.present)["logits"].float())
    return every[0] if len(every) == 1 else torch.stack(every).mean(dim=0)


def trains_together(name: str, data: FusionData, options: Settings) -> bool:
    """Whether heads of this kind share passes over this data set."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        head = build_head(name, data.shapes, data.targets, options)
    return is_faster_together(head, data.train.device)


def is_faster_together(head: Head, device: torch.device) -> bool:
    return device.type != "cpu" or sum(each.numel() for each in head.parameters()) < TOGETHER_PARAMETERS


def _products(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """In what precision products are made."""
    if recipe.precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    else:
        half = recipe.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def _alone(fit: Fit) -> float:
    fit.head.train()
    device = fit.inputs.indices.device
    total, clips = torch.zeros((), device=device), 0
    with using(Own(fit.draws)):
        for batch in fit.epoch():
            with _products(fit.recipe, device):
                loss = fit.loss(batch)
            if fit.recipe.l1:
                loss = loss + fit.recipe.l1 * l1(fit.head)
            fit.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            fit.step(fit.batches_per_epoch)
            total += loss.detach() * len(batch.index)
            clips += len(batch.index)
    return total.item() / clips


def _together(fits: Sequence[Fit]) -> list[float]:
    heads, recipe = [fit.head.train() for fit in fits], fits[0].recipe
    device = fits[0].inputs.indices.device
    stacked = _stack(heads)
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
        _hand_out(stacked, heads)
        for fit in fits:
            fit.step(len(every[0]))
        totals += loss.detach() * count
        clips += count
    return (totals / clips).tolist()


def _stacked_rows(fits: Sequence[Fit], parts: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """One batch of each head: prepared (heads, B, ...), and masks where any of the heads has one."""
    rows = [fit.inputs.drawn_rows(part, fit.recipe, fit.draws) for fit, part in zip(fits, parts, strict=True)]
    prepared = {name: torch.stack([each.prepared[name] for each in rows]) for name in rows[0].prepared}
    present: dict[str, Tensor | None] = {}
    for name in prepared:
        masks = [each.present[name] for each in rows]
        everyone = torch.ones_like(parts[0], dtype=torch.bool)
        stacked = torch.stack([everyone if mask is None else mask for mask in masks])
        present[name] = None if all(mask is None for mask in masks) else stacked
    return prepared, present


def _stack(heads: Sequence[Head]) -> dict[str, Tensor]:
    """All heads' weights by name, (heads, ...). The heads' own become views of them."""
    stacked = {}
    for name, _ in heads[0].named_parameters():
        same = [head.get_parameter(name) for head in heads]
        together = torch.stack([each.detach() for each in same])
        for each, own in zip(same, together, strict=True):
            each.data = own
        stacked[name] = together.requires_grad_()
    return stacked


def _hand_out(stacked: Mapping[str, Tensor], heads: Sequence[Head]) -> None:
    """Every head's gradients, as views."""
    for name, together in stacked.items():
        for index, head in enumerate(heads):
            head.get_parameter(name).grad = None if together.grad is None else together.grad[index]


@torch.no_grad()
def _masks_asked(head: Head, batch: Batch) -> list[tuple[torch.Size, torch.dtype, float]]:
    recorder = Recorder()
    with using(recorder):
        head(batch.prepared, batch.present)
    return recorder.asked


def _buffers(head: Head) -> set[str]:
    return {name for name, _ in head.named_buffers()}


def _forked(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
