"""Epochs of one head, or of several in one pass.

Inputs lie prepared on the device and a batch is an index into them. Heads that differ only in their numbers can share
one pass: their weights are stacked, and every product becomes a batch of products.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from stages.fuse.data import FusionData
from stages.fuse.draws import Given, Own, Recorder, drawn, using
from stages.fuse.heads import Head, ModalityShape, build_head
from stages.fuse.heads.base import Masks, Optimisation
from stages.fuse.targets import Targets

_EVALUATION_BATCH = 1024

TOGETHER_PARAMETERS = 1_000_000
"""On a CPU, heads with fewer parameters than this are faster side by side: one head's products do not fill the cores.
Of larger ones the optimiser's passes through memory take most of the time, which no company shortens."""


SIDE_BY_SIDE = 16
"""So many heads at most share a pass."""


@dataclass(frozen=True)
class Inputs:
    """A data set as one kind of head takes it, standardised by the clips at `indices`, which it is fitted on."""

    name: str
    shapes: Mapping[str, ModalityShape]
    targets: Targets
    statistics: Mapping[str, Tensor]
    prepared: Mapping[str, Tensor]
    present: Masks
    indices: Tensor

    @classmethod
    def of(cls, name: str, data: FusionData, indices: Tensor) -> "Inputs":
        shapes = {key: ModalityShape(modality.length, modality.dim) for key, modality in data.modalities.items()}
        with torch.random.fork_rng(devices=_forked(indices.device)):
            head = build_head(name, shapes, data.targets).to(indices.device)
        taken = {key: data.modalities[key] for key in head.modalities}
        head.fit_inputs(*_rows(taken, indices))
        count = len(data.table)
        parts = [
            head.prepare(*_rows(taken, part))
            for part in torch.arange(count, device=indices.device).split(_EVALUATION_BATCH)
        ]
        return cls(
            name,
            shapes,
            data.targets,
            {key: value for key, value in head.state_dict().items() if key in dict(head.named_buffers())},
            {key: torch.cat([part[key] for part in parts]) for key in taken},
            {key: None if modality.present.all() else modality.present for key, modality in taken.items()},
            indices,
        )

    def head(self) -> Head:
        """A freshly initialised head with these statistics."""
        head = build_head(self.name, self.shapes, self.targets).to(self.indices.device)
        head.load_state_dict(self.statistics, strict=False)
        return head

    def rows(self, indices: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """The clips at indices (...), in their shape."""
        prepared = {key: tensor[indices] for key, tensor in self.prepared.items()}
        return prepared, {key: None if mask is None else mask[indices] for key, mask in self.present.items()}


def _rows(modalities: Mapping[str, Any], indices: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    tokens = {key: modality.tokens[indices] for key, modality in modalities.items()}
    return tokens, {key: modality.present[indices] for key, modality in modalities.items()}


class Fit:
    """A head, its optimiser and its own stream of random numbers: nothing outside changes what it draws."""

    def __init__(self, inputs: Inputs, truth: Sequence[Tensor], optimisation: Optimisation, seed: int) -> None:
        device = inputs.indices.device
        with torch.random.fork_rng(devices=_forked(device)):
            torch.manual_seed(seed)
            self.head = inputs.head()
        self.inputs, self.truth, self.batch_size = inputs, truth, optimisation.batch_size
        self.order = torch.Generator().manual_seed(seed)
        self.draws = torch.Generator(device).manual_seed(seed)
        self.optimiser = torch.optim.AdamW(
            self.head.parameters(), lr=optimisation.learning_rate, weight_decay=optimisation.weight_decay, fused=True
        )

    def batches(self) -> tuple[Tensor, ...]:
        """The clips it is fitted on, in a new random order, batch by batch."""
        indices = self.inputs.indices
        order = torch.randperm(len(indices), generator=self.order).to(indices.device)
        return indices[order].split(self.batch_size)


def train_epoch(fits: Sequence[Fit]) -> list[float]:
    """One pass over the clips for every head, of which all have the same inputs. Returns their mean losses."""
    if len(fits) > 1 and _is_faster_together(fits[0].head, fits[0].inputs.indices.device):
        return _together(fits)
    return [_alone(fit) for fit in fits]


@torch.inference_mode()
def predict(head: Head, inputs: Inputs, indices: Tensor) -> Tensor:
    """Logits (len(indices), width) in evaluation mode."""
    head.eval()
    if not len(indices):
        return torch.empty(0, inputs.targets.width)
    return torch.cat([head(*inputs.rows(part))["logits"] for part in indices.split(_EVALUATION_BATCH)])


def trains_together(name: str, data: FusionData) -> bool:
    """Whether heads of this name share passes over this data set."""
    shapes = {key: ModalityShape(modality.length, modality.dim) for key, modality in data.modalities.items()}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        head = build_head(name, shapes, data.targets)
    return _is_faster_together(head, data.train.device)


def _is_faster_together(head: Head, device: torch.device) -> bool:
    return device.type != "cpu" or sum(each.numel() for each in head.parameters()) < TOGETHER_PARAMETERS


def _alone(fit: Fit) -> float:
    fit.head.train()
    total = torch.zeros((), device=fit.inputs.indices.device)
    with using(Own(fit.draws)):
        for batch in fit.batches():
            prepared, present = fit.inputs.rows(batch)
            truth = [each[batch] for each in fit.truth]
            loss = fit.head.loss(fit.head(prepared, present), present, truth)
            fit.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            fit.optimiser.step()
            total += loss.detach() * len(batch)
    return total.item() / len(fit.inputs.indices)


def _together(fits: Sequence[Fit]) -> list[float]:
    heads, inputs = [fit.head.train() for fit in fits], fits[0].inputs
    stacked = _stack(heads)
    totals = torch.zeros(len(fits), device=inputs.indices.device)
    asked: dict[int, list[tuple[torch.Size, torch.dtype, float]]] = {}

    def losses(
        parameters: dict[str, Tensor],
        prepared: dict[str, Tensor],
        present: dict[str, Tensor | None],
        truth: list[Tensor],
        masks: list[Tensor],
    ) -> Tensor:
        with using(Given(masks)):
            outputs = functional_call(heads[0], parameters, (prepared, present))
        return heads[0].loss(outputs, present, truth)

    for parts in zip(*(fit.batches() for fit in fits), strict=True):
        batch = torch.stack(parts)
        prepared, present = inputs.rows(batch)
        truth = [
            torch.stack([each[part] for each, part in zip(same, parts, strict=True)])
            for same in zip(*(fit.truth for fit in fits), strict=True)
        ]
        count = batch.shape[1]
        if count not in asked:
            asked[count] = _masks_asked(heads[0], *inputs.rows(parts[0]))
        masks = [
            torch.stack(each)
            for each in zip(*([drawn(*one, fit.draws) for one in asked[count]] for fit in fits), strict=True)
        ]
        has = {name: None if mask is None else 0 for name, mask in present.items()}
        loss = vmap(losses, in_dims=(0, 0, has, 0, 0))(stacked, prepared, present, truth, masks)
        for tensor in stacked.values():
            tensor.grad = None
        loss.sum().backward()
        _hand_out(stacked, heads)
        for fit in fits:
            fit.optimiser.step()
        totals += loss.detach() * count
    return (totals / len(inputs.indices)).tolist()


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
def _masks_asked(
    head: Head, prepared: dict[str, Tensor], present: dict[str, Tensor | None]
) -> list[tuple[torch.Size, torch.dtype, float]]:
    recorder = Recorder()
    with using(recorder):
        head(prepared, present)
    return recorder.asked


def _forked(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
