"""Many heads in one pass: heads of one architecture have their weights stacked, and each product becomes a batch of
products (torch.func.vmap).

The results are those of `head_trainer.train_epoch` up to the rounding of sums: each head keeps its own random numbers.
"""

import json
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import Head, build_head, get_head
from avfuse.stages.fuse.heads.dropout import MaskRecorder, PrecomputedMasks, dropout_source, stacked_dropout_masks
from avfuse.stages.fuse.losses.l1 import l1_norm, l1_weights
from avfuse.stages.fuse.training.auxiliary_losses import auxiliary_weights
from avfuse.stages.fuse.training.head_trainer import EpochLosses, HeadTrainer, autocast, predict, train_epoch
from avfuse.stages.fuse.training.inputs import HeadBatch
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import PER_HEAD

VMAP_MAX_PARAMETERS = 6_000_000
"""Heads with fewer parameters train faster in one pass on a CPU, as one head's products do not fill the cores. Measured
on two cores with five heads: 1.4 to 1.8 times as fast with 1.5 million parameters, no faster with 10 million."""

VMAP_MAX_PARAMETERS_GPU = 20_000_000
"""The same on a GPU, most of which small products leave idle. 32 of the largest such heads take 10 GB with gradients
and moments."""

MAX_GROUP_SIZE = 32
"""Heads in one pass at most."""

_Item = TypeVar("_Item")
_MaskShape = tuple[torch.Size, torch.dtype, float]


def trains_vmapped(name: str, data: FusionData, options: Settings, recipe: Recipe) -> bool:
    """Whether heads of this kind train in one pass over this data set. With auxiliary losses they do not, as the number
    of clips that take part in these differs by head; nor on streamed features."""
    if auxiliary_weights(recipe) or data.streamed.keys() & set(get_head(name).used_modalities(options)):
        return False
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        head = build_head(name, data.shapes, data.targets, options)
    return is_faster_vmapped(head, data.train.device)


def is_faster_vmapped(head: Head, device: torch.device) -> bool:
    """Whether several such heads train faster in one pass. Attention has no batched form on a CPU."""
    parameters = sum(parameter.numel() for parameter in head.parameters())
    if device.type == "cpu":
        attends = any(isinstance(module, nn.MultiheadAttention) for module in head.modules())
        return parameters < VMAP_MAX_PARAMETERS and not attends
    return parameters < VMAP_MAX_PARAMETERS_GPU


def group_key(job: TrainingJob) -> str | None:
    """Key that jobs trained in one pass share, as text; None for a job that trains alone."""
    if not trains_vmapped(job.head, job.data, job.options, job.recipe):
        return None
    recipe = job.recipe.model_dump(exclude=set(PER_HEAD))
    return json.dumps([job.head, job.options.model_dump(), recipe, str(job.data.shapes)])


def job_groups(items: Sequence[_Item], keys: Iterable[str | None], max_size: int = MAX_GROUP_SIZE) -> list[list[_Item]]:
    """Group items that train in one pass.

    Groups depend on all jobs of an experiment, finished ones among them: after an interruption a head then comes out of
    the same sums as in an uninterrupted run.

    Args:
        items: jobs, or what stands for them.
        keys: of each item, the `group_key` of its job; an item with None is a group of its own.
        max_size: items per group.
    """
    groups: list[list[_Item]] = []
    open_groups: dict[str, list[_Item]] = {}
    for item, key in zip(items, keys, strict=True):
        group = None if key is None else open_groups.get(key)
        if group is None or len(group) == max_size:
            group = []
            groups.append(group)
            if key is not None:
                open_groups[key] = group
        group.append(item)
    return groups


def train_epochs(trainers: Sequence[HeadTrainer]) -> list[EpochLosses]:
    """Train each head for one epoch, in one pass where that is faster.

    Heads have the same class and input shapes, and recipes that differ in `PER_HEAD` only.
    """
    if len(trainers) > 1 and _can_vmap(trainers[0]):
        return train_epoch_vmapped(trainers)
    for trainer in trainers:
        _unstack(trainer)
    return [train_epoch(trainer) for trainer in trainers]


@torch.inference_mode()
def predict_heads(trainers: Sequence[HeadTrainer], indices: Tensor) -> list[Tensor]:
    """Logits (len(indices), width) of each head, as `predict` gives them; in one pass for heads that have just trained
    in one, on the same inputs."""
    inputs, stack = trainers[0].inputs, _stack_of(trainers)
    if stack is None or inputs.evaluation_passes > 1 or any(trainer.inputs is not inputs for trainer in trainers):
        return [predict(trainer.head, trainer.inputs, indices) for trainer in trainers]
    head = trainers[0].head.eval()

    def logits(weights: dict[str, Tensor], batch: HeadBatch) -> Tensor:
        outputs: dict[str, Tensor] = functional_call(head, weights, (batch.prepared, batch.present))
        return outputs["logits"].float()

    parts = [vmap(partial(logits, batch=batch))(stack.weights) for _, (batch,) in inputs.evaluation_batches(indices)]
    return list(torch.cat(parts, dim=1))


def train_epoch_vmapped(trainers: Sequence[HeadTrainer]) -> list[EpochLosses]:
    """`train_epoch` of all heads in one pass."""
    for trainer in trainers:
        trainer.head.train()
    stack = _stack_of(trainers) or StackedParameters(trainers)
    head, recipe, device = trainers[0].head, trainers[0].recipe, trainers[0].inputs.indices.device
    sums, clips = torch.zeros(len(trainers), device=device), 0
    mask_shapes: dict[int, list[_MaskShape]] = {}  # by batch size
    l1 = torch.tensor([trainer.recipe.l1 for trainer in trainers], device=device)
    penalised = l1_weights(head) if l1.any() else []

    def loss_of_head(
        weights: dict[str, Tensor],
        prepared: dict[str, Tensor],
        present: dict[str, Tensor | None],
        truth: list[Tensor],
        masks: list[Tensor],
        l1: Tensor,
    ) -> Tensor:
        with dropout_source(PrecomputedMasks(masks)), autocast(recipe, device):
            outputs = functional_call(head, weights, (prepared, present))
            loss = head.loss(outputs, present, truth, recipe.label_smoothing)
        return loss + l1 * l1_norm(weights[name] for name in penalised) if penalised else loss

    # Shuffle, each head in an order of its own
    batches = [trainer.shuffled_batches() for trainer in trainers]
    for indices in zip(*batches, strict=True):
        # Augment: draw views, drop modalities, draw dropout masks
        prepared, present = _stacked_inputs(trainers, indices)
        truth = [
            torch.stack([target[index] for target, index in zip(targets, indices, strict=True)])
            for targets in zip(*(trainer.truth for trainer in trainers), strict=True)
        ]
        size = len(indices[0])
        if size not in mask_shapes:
            with autocast(recipe, device):
                mask_shapes[size] = _dropout_mask_shapes(head, trainers[0].inputs.evaluation_batch(indices[0]))
        generators = [trainer.augment_rng for trainer in trainers]
        masks = [stacked_dropout_masks(*shape, generators) for shape in mask_shapes[size]]
        # Forward
        present_dims = {name: None if mask is None else 0 for name, mask in present.items()}
        loss = vmap(loss_of_head, in_dims=(0, 0, present_dims, 0, 0, 0))(
            stack.weights, prepared, present, truth, masks, l1
        )
        # Backward and step
        stack.step(loss.sum(), len(batches[0]))
        sums += loss.detach() * size
        clips += size
    return [EpochLosses(mean) for mean in (sums / clips).tolist()]


class StackedParameters:
    """Weights of heads that train in one pass, with one optimiser: one tensor (heads, ...) per weight and per moment of
    its gradients. A head's own parameters and optimiser state are views of these until it is unstacked."""

    def __init__(self, trainers: Sequence[HeadTrainer]) -> None:
        for trainer in trainers:
            _unstack(trainer)
        self._trainers = [weakref.ref(trainer) for trainer in trainers]
        self._states = [trainer.optimiser.state for trainer in trainers]
        own = {
            name: [trainer.head.get_parameter(name) for trainer in trainers]
            for name, _ in trainers[0].head.named_parameters()
        }
        self.weights = {
            name: torch.stack([parameter.detach() for parameter in parameters]) for name, parameters in own.items()
        }
        moments = {name: _stacked_moments(trainers, parameters) for name, parameters in own.items()}
        # Neighbours with the same learning rate and weight decay are one group of the optimiser.
        rates = [(trainer.recipe.lr, trainer.recipe.weight_decay) for trainer in trainers]
        self._slices = [slice(run[0], run[-1] + 1) for run in _runs_of_equals(rates)]
        groups = [
            {
                "params": [weight.detach()[heads] for weight in self.weights.values()],
                "lr": rates[heads.start][0],
                "weight_decay": rates[heads.start][1],
            }
            for heads in self._slices
        ]
        self._optimiser = torch.optim.AdamW(groups, fused=True)
        for name, parameters in own.items():
            for parameter, weight in zip(parameters, self.weights[name], strict=True):
                parameter.data = weight
        for heads, group in zip(self._slices, self._optimiser.param_groups, strict=True):
            for (name, parameters), sliced in zip(own.items(), group["params"], strict=True):
                last = trainers[heads.start].optimiser.state[parameters[heads.start]].get("step")
                step = torch.zeros((), device=sliced.device) if last is None else last.clone()
                self._optimiser.state[sliced] = {"step": step, **_at(heads, moments[name])}
                for number in range(heads.start, heads.stop):
                    trainers[number].optimiser.state[parameters[number]] = {"step": step, **_at(number, moments[name])}
        for weight in self.weights.values():
            weight.requires_grad_()
        for trainer in trainers:
            _STACKS[trainer] = self

    def holds(self, trainers: Sequence[HeadTrainer]) -> bool:
        """Whether it holds the weights of these heads, in this order, and none of them has been loaded since."""
        return len(self._trainers) == len(trainers) and all(
            ref() is trainer and state is trainer.optimiser.state
            for ref, state, trainer in zip(self._trainers, self._states, trainers, strict=True)
        )

    def step(self, loss: Tensor, batches_per_epoch: int) -> None:
        """Update all weights by the gradients of the sum of all heads' losses."""
        for weight in self.weights.values():
            weight.grad = None
        loss.backward()
        trainers = self._alive()
        for heads, group in zip(self._slices, self._optimiser.param_groups, strict=True):
            group["lr"] = trainers[heads.start].learning_rate(batches_per_epoch)
            for weight, sliced in zip(self.weights.values(), group["params"], strict=True):
                sliced.grad = None if weight.grad is None else weight.grad[heads]
        self._optimiser.step()
        for trainer in trainers:
            trainer.steps += 1

    def unstack(self) -> None:
        """Give every head weights and moments of its own."""
        for trainer in self._alive():
            for parameter in trainer.head.parameters():
                parameter.data = parameter.data.clone()
                trainer.optimiser.state[parameter] = {
                    name: value.clone() for name, value in trainer.optimiser.state[parameter].items()
                }
            del _STACKS[trainer]

    def _alive(self) -> list[HeadTrainer]:
        return [trainer for ref in self._trainers if (trainer := ref()) is not None]


_STACKS: "weakref.WeakKeyDictionary[HeadTrainer, StackedParameters]" = weakref.WeakKeyDictionary()
"""Stacked weights of a head, by its trainer."""


def _stack_of(trainers: Sequence[HeadTrainer]) -> StackedParameters | None:
    """The stack of just these heads, where there is one."""
    stack = _STACKS.get(trainers[0])
    return stack if stack is not None and stack.holds(trainers) else None


def _unstack(trainer: HeadTrainer) -> None:
    if (stack := _STACKS.get(trainer)) is not None:
        stack.unstack()


def _can_vmap(trainer: HeadTrainer) -> bool:
    plain = trainer.auxiliary is None and trainer.inputs.streamed is None
    return plain and is_faster_vmapped(trainer.head, trainer.inputs.indices.device)


def _stacked_inputs(
    trainers: Sequence[HeadTrainer], indices: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """One training batch of each head: features (heads, B, ...), and masks (heads, B) where any head has one."""
    batches = [
        trainer.inputs.training_batch(index, trainer.recipe, trainer.augment_rng)
        for trainer, index in zip(trainers, indices, strict=True)
    ]
    prepared = {name: torch.stack([batch.prepared[name] for batch in batches]) for name in batches[0].prepared}
    present: dict[str, Tensor | None] = {}
    for name in prepared:
        masks = [batch.present[name] for batch in batches]
        all_present = torch.ones_like(indices[0], dtype=torch.bool)
        stacked = torch.stack([all_present if mask is None else mask for mask in masks])
        present[name] = None if all(mask is None for mask in masks) else stacked
    return prepared, present


@torch.no_grad()
def _dropout_mask_shapes(head: Head, batch: HeadBatch) -> list[_MaskShape]:
    """The dropout masks of one forward pass, in order: shapes, types and probabilities."""
    recorder = MaskRecorder()
    with dropout_source(recorder):
        head(batch.prepared, batch.present)
    return recorder.requests


def _runs_of_equals(values: Sequence[Any]) -> list[list[int]]:
    """Positions of neighbours that are equal."""
    return [list(run) for _, run in groupby(range(len(values)), key=values.__getitem__)]


def _stacked_moments(trainers: Sequence[HeadTrainer], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """The moments of one weight's gradients, by name, (heads, ...); zeros before the first step."""
    states = [trainer.optimiser.state[parameter] for trainer, parameter in zip(trainers, parameters, strict=True)]
    return {
        name: torch.stack(
            [state.get(name, torch.zeros_like(parameter)) for state, parameter in zip(states, parameters, strict=True)]
        )
        for name in ("exp_avg", "exp_avg_sq")
    }


def _at(heads: int | slice, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: moment[heads] for name, moment in moments.items()}
