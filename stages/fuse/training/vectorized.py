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
from avfuse.stages.fuse.heads.dropout import MaskRecorder, PrecomputedMasks, dropout_source, stacked_dropout_masks
from avfuse.stages.fuse.losses.l1 import l1_norm, l1_weights
from avfuse.stages.fuse.training.auxiliary_losses import auxiliary_weights
from avfuse.stages.fuse.training.head_trainer import (
    EpochLosses,
    HeadTrainer,
    StackedParameters,
    autocast,
    predict,
    train_epoch,
)
from avfuse.stages.fuse.training.inputs import HeadBatch
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import PER_HEAD

VMAP_MAX_PARAMETERS = 6_000_000
"""On a CPU, five heads with fewer parameters than this are faster side by side, as one head's products do not fill the
cores. Measured on two: with 1.5 million 1.4 to 1.8 times as fast, with 10 million no faster."""

VMAP_MAX_PARAMETERS_GPU = 20_000_000
"""On a GPU small products leave most of it idle. 32 of the largest heads that share a pass take 10 GB with gradients
and moments."""

MAX_GROUP_SIZE = 32
"""So many heads at most share a pass."""


def train_epochs(trainers: Sequence[HeadTrainer]) -> list[EpochLosses]:
    """One pass over the clips for every head. Several are of one kind, with inputs of the same shapes, and recipes that
    differ in nothing but PER_HEAD. Returns their mean losses."""
    if len(trainers) > 1 and _share_a_pass(trainers[0]):
        return train_epoch_vmapped(trainers)
    return [train_epoch(trainer) for trainer in trainers]


@torch.inference_mode()
def predict_heads(trainers: Sequence[HeadTrainer], indices: Tensor) -> list[Tensor]:
    """What `predict` gives of each head on its own inputs, (len(indices), width); at once of heads that train together
    on the same inputs."""
    inputs, stack = trainers[0].inputs, trainers[0].stack
    at_once = stack is not None and stack.is_of(trainers) and all(trainer.inputs is inputs for trainer in trainers)
    if stack is None or not at_once or inputs.evaluation_passes > 1:
        return [predict(trainer.head, trainer.inputs, indices) for trainer in trainers]
    head = trainers[0].head.eval()

    def logits(parameters: dict[str, Tensor], batch: HeadBatch) -> Tensor:
        outputs: dict[str, Tensor] = functional_call(head, parameters, (batch.prepared, batch.present))
        return outputs["logits"].float()

    every = [vmap(partial(logits, batch=batch))(stack.weights) for _, (batch,) in inputs.evaluation_batches(indices)]
    return list(torch.cat(every, dim=1))


def _share_a_pass(trainer: HeadTrainer) -> bool:
    plain = trainer.objective is None and not trainer.inputs.streamed
    return plain and is_faster_vmapped(trainer.head, trainer.inputs.indices.device)


def trains_vmapped(name: str, data: FusionData, options: Settings, recipe: Recipe) -> bool:
    """Whether heads of this kind share passes over this data set. Those with an objective beside classification do not:
    which clips take part in it is another number for each of them."""
    if auxiliary_weights(recipe) or data.streamed.keys() & set(get_head(name).used_modalities(options)):
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


def train_epoch_vmapped(trainers: Sequence[HeadTrainer]) -> list[EpochLosses]:
    """One pass over the clips for all heads at once. Returns their mean losses."""
    stack, recipe = _stack_of(trainers), trainers[0].recipe
    head, device = trainers[0].head, trainers[0].inputs.indices.device
    totals, clips = torch.zeros(len(trainers), device=device), 0
    mask_shapes: dict[int, list[tuple[torch.Size, torch.dtype, float]]] = {}
    penalties = torch.tensor([trainer.recipe.l1 for trainer in trainers], device=device)
    penalised = l1_weights(head) if penalties.any() else []

    def losses(
        parameters: dict[str, Tensor],
        prepared: dict[str, Tensor],
        present: dict[str, Tensor | None],
        truth: list[Tensor],
        masks: list[Tensor],
        penalty: Tensor,
    ) -> Tensor:
        with dropout_source(PrecomputedMasks(masks)), autocast(recipe, device):
            outputs = functional_call(head, parameters, (prepared, present))
            loss = head.loss(outputs, present, truth, recipe.label_smoothing)
        return loss + penalty * l1_norm(parameters[name] for name in penalised) if penalised else loss

    every = [trainer.batches() for trainer in trainers]
    generators = [trainer.draws for trainer in trainers]
    for parts in zip(*every, strict=True):
        prepared, present = _stacked_rows(trainers, parts)
        truth = [
            torch.stack([each[part] for each, part in zip(same, parts, strict=True)])
            for same in zip(*(trainer.truth for trainer in trainers), strict=True)
        ]
        count = len(parts[0])
        if count not in mask_shapes:
            with autocast(recipe, device):
                mask_shapes[count] = _dropout_mask_shapes(head, trainers[0].inputs.evaluation_batch(parts[0]))
        masks = [stacked_dropout_masks(*one, generators) for one in mask_shapes[count]]
        has = {name: None if mask is None else 0 for name, mask in present.items()}
        loss = vmap(losses, in_dims=(0, 0, has, 0, 0, 0))(stack.weights, prepared, present, truth, masks, penalties)
        stack.follow(loss.sum(), len(every[0]))
        totals += loss.detach() * count
        clips += count
    return [EpochLosses(total) for total in (totals / clips).tolist()]


def _stack_of(trainers: Sequence[HeadTrainer]) -> StackedParameters:
    """The one that they are in, or a new one."""
    for trainer in trainers:
        trainer.head.train()
    last = trainers[0].stack
    return last if last is not None and last.is_of(trainers) else StackedParameters(trainers)


def _stacked_rows(
    trainers: Sequence[HeadTrainer], parts: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """One batch of each head: prepared (heads, B, ...), and masks where any of the heads has one."""
    rows = [
        trainer.inputs.training_batch(part, trainer.recipe, trainer.draws)
        for trainer, part in zip(trainers, parts, strict=True)
    ]
    prepared = {name: torch.stack([each.prepared[name] for each in rows]) for name in rows[0].prepared}
    present: dict[str, Tensor | None] = {}
    for name in prepared:
        masks = [each.present[name] for each in rows]
        everyone = torch.ones_like(parts[0], dtype=torch.bool)
        stacked = torch.stack([everyone if mask is None else mask for mask in masks])
        present[name] = None if all(mask is None for mask in masks) else stacked
    return prepared, present


@torch.no_grad()
def _dropout_mask_shapes(head: Head, batch: HeadBatch) -> list[tuple[torch.Size, torch.dtype, float]]:
    recorder = MaskRecorder()
    with dropout_source(recorder):
        head(batch.prepared, batch.present)
    return recorder.requests


Item = TypeVar("Item")


def group_key(job: TrainingJob) -> str | None:
    """What heads that share a pass have in common, as text; None for a head that trains alone."""
    if not trains_vmapped(job.head, job.data, job.options, job.recipe):
        return None
    recipe = job.recipe.model_dump(exclude=set(PER_HEAD))
    return json.dumps([job.head, job.options.model_dump(), recipe, str(job.data.shapes)])


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
