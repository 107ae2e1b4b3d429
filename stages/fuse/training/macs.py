"""Multiply-adds of heads, of training steps and of the backbones behind them.

Multiply-adds (MACs) are those of matrix products, convolutions and attention: half the operations that PyTorch's
counter gives. Elementwise operations are not counted, as in published figures. The cost of a pass does not depend on
the weights, so backbones are counted without them, on the meta device.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from avfuse.features import backbones
from avfuse.features.errors import UsageError
from avfuse.features.spec import AnyInput, FeatureSpec, FramesInput, ImageInput
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality, StreamedModality
from avfuse.stages.fuse.heads import Head, get_head
from avfuse.stages.fuse.heads.dropout import GeneratorMasks, dropout_source
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadInputs, Views
from avfuse.stages.fuse.training.job import TrainingJob

if TYPE_CHECKING:
    from avfuse.features.backbones import Backbone


def multiply_adds(call: Callable[[], object]) -> int:
    """The multiply-adds of the forward passes in `call`.

    Attention is counted as two matrix products and a softmax: which fused kernel a machine picks, and which of them
    PyTorch's counter knows, changes from one version to the next.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def head_macs(head: Head, passes: int = 1) -> int | None:
    """The multiply-adds of a head per clip at test, with all modalities present. passes: the number of averaged views,
    a pass each. None where the head has no products."""
    was_training, device = head.training, next(head.parameters()).device
    prepared = {
        name: modality.to_layout(torch.zeros(1, modality.shape.length, modality.shape.dim, device=device))
        for name, modality in head.modality_inputs().items()
    }
    head.eval()
    once = multiply_adds(lambda: head(prepared, dict.fromkeys(prepared)))
    head.train(was_training)
    return passes * once or None


def training_macs(job: TrainingJob) -> float | None:
    """The multiply-adds per clip of the forward passes of one training step, those of auxiliary losses among them. None
    for heads that are fitted without epochs.

    Counted on a batch of random numbers with all modalities present, with a head of its own: neither data nor the
    global random state are touched.
    """
    if get_head(job.head).fits_without_epochs:
        return None
    data = job.data
    clips = _batch(job)
    inputs = HeadInputs.of(
        job.head, _dummy_data(data, len(clips)), torch.arange(len(clips)).to(clips), job.options, job.recipe
    )
    trainer = HeadTrainer(inputs, data.truth, job.recipe, job.seed, filter_banks=data.banks)
    batch = replace(inputs.training_batch(inputs.indices, job.recipe, trainer.augment_rng), index=clips)
    trainer.head.train()
    with dropout_source(GeneratorMasks(trainer.augment_rng)):
        return multiply_adds(lambda: trainer.losses(batch)["total"]) / len(clips) or None


def evaluation_passes(job: TrainingJob) -> int:
    """The number of views per clip that the head's logits are averaged over."""
    seen = get_head(job.head).used_modalities(job.options)
    return max(len(Views.of(job.data.modalities[name], job.recipe).test_views) for name in seen)


def backbone_macs(specs: Iterable[FeatureSpec]) -> int | None:
    """The multiply-adds of the frozen backbones behind one clip's features: a pass per frame, audio image, window and
    view, and one pass for features that share it. None where a feature was imported, or where its backbone is missing
    or has changed since. A backbone's input itself, such as the filter bank, needs no pass: 0."""
    passes = {(spec.model, spec.input, spec.view, spec.compute): spec for spec in specs}.values()
    costs = [_spec_macs(spec) for spec in passes]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def job_backbone_macs(job: TrainingJob) -> int | None:
    """The multiply-adds per clip of the backbones behind the features that a head uses at test."""
    specs: list[FeatureSpec] = []
    for name in get_head(job.head).used_modalities(job.options):
        if name == job.recipe.without:
            continue
        specs_of_modality = _test_specs(job.data.modalities[name], job.recipe)
        if not specs_of_modality:
            return None
        specs += specs_of_modality
    return backbone_macs(specs)


def _test_specs(modality: Modality | StreamedModality, recipe: Recipe) -> list[FeatureSpec]:
    """The features that are used at test, without views that only training draws."""
    if modality.layout is None:
        return list(modality.specs)
    test_views = Views.of(modality, recipe).test_views
    return [spec for number in test_views for spec in modality.layout.alternatives[number]]


def _spec_macs(spec: FeatureSpec) -> int | None:
    """The multiply-adds of all passes of one feature of a clip."""
    if spec.model is None:
        return None if spec.imported else 0
    items, shape = _items(spec.input)
    once = _network_macs(spec.model.backbone, spec.model.revision, shape)
    return None if once is None else items * once


def _items(taken: AnyInput) -> tuple[int, tuple[int, ...]]:
    """The number of items per clip that a backbone takes, and the shape of one."""
    if isinstance(taken, FramesInput):
        frames, height, width, channels = taken.shape
        frame = (channels, height, width)
        return (frames, frame) if taken.kind == "frames" else (1, (frames, *frame))
    if isinstance(taken, ImageInput):
        height, width, channels = taken.shape
        return 1, (channels, height, width)
    return 1, taken.shape


@cache
def _network_macs(name: str, revision: int, shape: tuple[int, ...]) -> int | None:
    """The multiply-adds of one item of this shape; None where the backbone is missing or has changed."""
    try:
        backbone = _local_backbone(name)
    except UsageError:
        return None
    if backbone is None or backbone.revision != revision:
        return None
    for device in ("meta", "cpu"):  # some networks read their own values in forward
        try:
            return _count(backbone, shape, device) or None
        except Exception:  # noqa: BLE001, S112  (a user's own network may raise anything; no reason to lose a result)
            continue
    return None


def _local_backbone(name: str) -> "Backbone | None":
    """The backbone of that name, unless it would have to be downloaded. Raises UsageError where there is none."""
    prefix, _, theirs = name.partition(":")
    if prefix == "hf":
        from avfuse.features.backbones.adapters import transformers as any_transformers

        if not any_transformers.checkpoint_of(theirs).is_available:
            return None
    return backbones.get_backbone(name)


def _count(backbone: "Backbone", shape: tuple[int, ...], device: str) -> int:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        network = backbone.make().eval()
        item = torch.zeros(1, *shape)
        return multiply_adds(lambda: backbone.encode(network, item))


def _batch(job: TrainingJob) -> Tensor:
    """The clips of one training batch, int64 (B,): spread over the data set, with all modalities where some have
    them."""
    data = job.data
    complete = torch.stack([modality.present for modality in data.modalities.values()]).all(dim=0)
    clips = data.train[complete[data.train]] if complete[data.train].any() else data.train
    size = min(job.recipe.batch_size, len(data.train))
    if job.recipe.classes_and_clips is not None:
        size = math.prod(job.recipe.classes_and_clips)
    return clips[torch.arange(size, device=clips.device) * len(clips) // size]


def _dummy_data(data: FusionData, clips: int) -> FusionData:
    """Data set of a number of clips with random features."""
    generator = torch.Generator().manual_seed(0)
    device = data.train.device
    modalities = {}
    for name, modality in data.modalities.items():
        tokens = torch.randn(clips, *modality.shape[:2], generator=generator).to(device)
        layout = modality.layout and replace(
            modality.layout, alternatives=modality.layout.alternatives[:1], test_views=(0,)
        )
        all_present = torch.ones(clips, dtype=torch.bool, device=device)
        modalities[name] = Modality(tokens, all_present, modality.specs, None, layout)
    return replace(data, modalities=modalities)
