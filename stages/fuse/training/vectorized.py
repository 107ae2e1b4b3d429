"""Epochs of several heads in one pass.

Heads that differ only in their numbers have their weights stacked, and every product becomes a batch of products.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import Head, build_head, get_head
from avfuse.stages.fuse.heads.dropout import Given, Recorder, drawn_together, using
from avfuse.stages.fuse.losses.l1 import l1_of, l1_weights
from avfuse.stages.fuse.training.auxiliary_losses import asked
from avfuse.stages.fuse.training.head_trainer import Fit, Losses, StackedParameters, predict, products, train_epoch
from avfuse.stages.fuse.training.inputs import Batch
from avfuse.stages.fuse.training.job import Plan
from avfuse.stages.fuse.training.overrides import PER_HEAD

VMAP_MAX_PARAMETERS = 6_000_000
"""On a CPU, five heads with fewer parameters than this are faster side by side, as one head's products do not fill the
cores. Measured on two: with 1.5 million 1.4 to 1.8 times as fast, with 10 million no faster."""

VMAP_MAX_PARAMETERS_GPU = 20_000_000
"""On a GPU small products leave most of it idle. 32 of the largest heads that share a pass take 10 GB with gradients
and moments."""

MAX_GROUP_SIZE = 32
"""So many heads at most share a pass."""


def train_epochs(fits: Sequence[Fit]) -> list[Losses]:
    """One pass over the clips for every head. Several are of one kind, with inputs of the same shapes, and recipes that
    differ in nothing but PER_HEAD. Returns their mean losses."""
    if len(fits) > 1 and _share_a_pass(fits[0]):
        return train_epoch_vmapped(fits)
    return [train_epoch(fit) for fit in fits]


@torch.inference_mode()
def predict_heads(fits: Sequence[Fit], indices: Tensor) -> list[Tensor]:
    """What `predict` gives of each head on its own inputs, (len(indices), width); at once of heads that train together
    on the same inputs."""
    inputs, stack = fits[0].inputs, fits[0].stack
    at_once = stack is not None and stack.is_of(fits) and all(fit.inputs is inputs for fit in fits)
    if stack is None or not at_once or inputs.passes_at_test > 1:
        return [predict(fit.head, fit.inputs, indices) for fit in fits]
    head = fits[0].head.eval()

    def logits(parameters: dict[str, Tensor], batch: Batch) -> Tensor:
        outputs: dict[str, Tensor] = functional_call(head, parameters, (batch.prepared, batch.present))
        return outputs["logits"].float()

    every = [vmap(partial(logits, batch=batch))(stack.weights) for _, (batch,) in inputs.at_test(indices)]
    return list(torch.cat(every, dim=1))


def _share_a_pass(fit: Fit) -> bool:
    plain = fit.objective is None and not fit.inputs.streamed
    return plain and is_faster_vmapped(fit.head, fit.inputs.indices.device)


def trains_vmapped(name: str, data: FusionData, options: Settings, recipe: Recipe) -> bool:
    """Whether heads of this kind share passes over this data set. Those with an objective beside classification do not:
    which clips take part in it is another number for each of them."""
    if asked(recipe) or data.streamed.keys() & set(get_head(name).used_modalities(options)):
        return False
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        head = build_head(name, data.shapes, data.targets, options)
    return is_faster_vmapped(head, data.train.device)


def is_faster_vmapped(head: Head, device: torch.device) -> bool:
    """Attention has no batched form on a CPU."""
    parameters = sum(each.numel() for each in head.parameters())
    if device.type == "cpu":
        attends = any(isinstance(module, nn.MultiheadAttention) for module in head.modules())
        return parameters < VMAP_MAX_PARAMETERS and not attends
    return parameters < VMAP_MAX_PARAMETERS_GPU


def train_epoch_vmapped(fits: Sequence[Fit]) -> list[Losses]:
    """One pass over the clips for all heads at once. Returns their mean losses."""
    stack, recipe = _stack_of(fits), fits[0].recipe
    head, device = fits[0].head, fits[0].inputs.indices.device
    totals, clips = torch.zeros(len(fits), device=device), 0
    asked: dict[int, list[tuple[torch.Size, torch.dtype, float]]] = {}
    penalties = torch.tensor([fit.recipe.l1 for fit in fits], device=device)
    penalised = l1_weights(head) if penalties.any() else []

    def losses(
        parameters: dict[str, Tensor],
        prepared: dict[str, Tensor],
        present: dict[str, Tensor | None],
        truth: list[Tensor],
        masks: list[Tensor],
        penalty: Tensor,
    ) -> Tensor:
        with using(Given(masks)), products(recipe, device):
            outputs = functional_call(head, parameters, (prepared, present))
            loss = head.loss(outputs, present, truth, recipe.label_smoothing)
        return loss + penalty * l1_of(parameters[name] for name in penalised) if penalised else loss

    every = [fit.batches() for fit in fits]
    generators = [fit.draws for fit in fits]
    for parts in zip(*every, strict=True):
        prepared, present = _stacked_rows(fits, parts)
        truth = [
            torch.stack([each[part] for each, part in zip(same, parts, strict=True)])
            for same in zip(*(fit.truth for fit in fits), strict=True)
        ]
        count = len(parts[0])
        if count not in asked:
            with products(recipe, device):
                asked[count] = _masks_asked(head, fits[0].inputs.rows(parts[0]))
        masks = [drawn_together(*one, generators) for one in asked[count]]
        has = {name: None if mask is None else 0 for name, mask in present.items()}
        loss = vmap(losses, in_dims=(0, 0, has, 0, 0, 0))(stack.weights, prepared, present, truth, masks, penalties)
        stack.follow(loss.sum(), len(every[0]))
        totals += loss.detach() * count
        clips += count
    return [Losses(total) for total in (totals / clips).tolist()]


def _stack_of(fits: Sequence[Fit]) -> StackedParameters:
    """The one that they are in, or a new one."""
    for fit in fits:
        fit.head.train()
    last = fits[0].stack
    return last if last is not None and last.is_of(fits) else StackedParameters(fits)


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


@torch.no_grad()
def _masks_asked(head: Head, batch: Batch) -> list[tuple[torch.Size, torch.dtype, float]]:
    recorder = Recorder()
    with using(recorder):
        head(batch.prepared, batch.present)
    return recorder.asked


Item = TypeVar("Item")


def group_key(plan: Plan) -> str | None:
    """What heads that share a pass have in common, as text; None for a head that trains alone."""
    if not trains_vmapped(plan.head, plan.data, plan.options, plan.recipe):
        return None
    recipe = plan.recipe.model_dump(exclude=set(PER_HEAD))
    return json.dumps([plan.head, plan.options.model_dump(), recipe, str(plan.data.shapes)])


def job_groups(items: Sequence[Item], kinds: Iterable[str | None], most: int = MAX_GROUP_SIZE) -> list[list[Item]]:
    """Items in companies of one kind, at most so many in each; what is of no kind is alone.

    What trains together depends on what was asked for, not on what is there already: after a run that was broken off,
    a head then comes out of the same sums as in an unbroken one.

    kinds: of each item, as `group_key` its plan.
    """
    found: list[list[Item]] = []
    open_ones: dict[str, list[Item]] = {}
    for item, kind in zip(items, kinds, strict=True):
        group = None if kind is None else open_ones.get(kind)
        if group is None or len(group) == most:
            group = []
            found.append(group)
            if kind is not None:
                open_ones[kind] = group
        group.append(item)
    return found
