"""What a result costs: multiply-adds of head and backbones, time, memory.

Multiply-adds (MACs) are those of matrix products, convolutions and attention, as PyTorch's counter has them, which
gives twice as many operations; what is done number by number is left out, as in published figures. A pass is what it is
whatever the weights, so backbones are counted without any, on the meta device.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from avfuse.features import backbones
from avfuse.features.errors import UsageError
from avfuse.features.malloc import release_buffers
from avfuse.features.spec import AnyInput, FeatureSpec, FramesInput, ImageInput
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality, StreamedModality
from avfuse.stages.fuse.heads import Head, get_head
from avfuse.stages.fuse.heads.dropout import GeneratorMasks, dropout_source
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadInputs, Views
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.trainer import TrainedHead

if TYPE_CHECKING:
    from avfuse.features.backbones import Backbone

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cost:
    """Of one trained head. None: not known, and never a guess.

    macs: of the head for one clip at test, all windows that are averaged. backbone_macs: of the frozen networks behind
    what it sees of that clip. training_macs: forward passes of one training step, for each of its clips; what the
    gradients cost, about twice as much again, is not in them. seconds: a head's share of the time that its company
    took, from loading to the last prediction. peak_memory_mib: see Spent; heads that were trained `side_by_side` share
    it.
    """

    parameters: int
    macs: int | None
    backbone_macs: int | None
    training_macs: float | None
    seconds: float
    seconds_per_epoch: float | None
    peak_memory_mib: float | None
    side_by_side: int

    @classmethod
    def of(cls, job: TrainingJob, trained: TrainedHead, usage: "ResourceUsage", in_training: float | None) -> "Cost":
        """in_training: `training_macs`, which heads that are trained together have in common."""
        pace = usage.seconds_per_epoch
        return cls(
            parameters=trained.parameters,
            macs=head_macs(trained.head, evaluation_passes(job)),
            backbone_macs=_job_backbone_macs(job),
            training_macs=in_training,
            seconds=round(usage.seconds / usage.heads, 2),
            seconds_per_epoch=None if pace is None else round(pace, 4),
            peak_memory_mib=None if usage.peak_bytes is None else round(usage.peak_bytes / _MEBIBYTE, 1),
            side_by_side=usage.heads,
        )


def multiply_adds(call: Callable[[], object]) -> int:
    """What `call` does, forward.

    Attention is computed as two matrix products and a softmax while it is counted: which fused kernel a machine picks,
    and which of them PyTorch's counter knows, changes from one version to the next.
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
    """Of a head for one clip at test, with both modalities. passes: how often it looks, once for each view that is
    averaged."""
    was_training, device = head.training, next(head.parameters()).device
    prepared = {
        name: door.to_layout(torch.zeros(1, door.shape.length, door.shape.dim, device=device))
        for name, door in head.modality_inputs().items()
    }
    head.eval()
    once = multiply_adds(lambda: head(prepared, dict.fromkeys(prepared)))
    head.train(was_training)
    return passes * once or None


def training_macs(job: TrainingJob) -> float | None:
    """Of the forward passes of one training step, objectives' own among them, for each of its clips. None for heads
    that are fitted at once.

    Counted on a batch of made-up numbers that has both modalities, with a head that is thrown away: no random state and
    no data are touched.
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
    """How many views of a clip the head's logits are averaged over."""
    seen = get_head(job.head).used_modalities(job.options)
    return max(len(Views.of(job.data.modalities[name], job.recipe).test_views) for name in seen)


def backbone_macs(specs: Iterable[FeatureSpec]) -> int | None:
    """Of the frozen networks that make one clip's features: every frame, audio image, window and view is a pass, and
    one that gives several of the features counts once. None where a feature was imported, or its network is not here or
    has changed since. A backbone's input itself, such as the filter bank, comes from no network: 0."""
    passes = {(spec.model, spec.input, spec.view, spec.compute): spec for spec in specs}.values()
    every = [_of_pass(spec) for spec in passes]
    known = [each for each in every if each is not None]
    return sum(known) if len(known) == len(every) else None


@dataclass
class ResourceUsage:
    """What training `heads` side by side took. peak_bytes: on a GPU of tensors; on a CPU of memory that the whole
    process, PyTorch and the loaded data among it, had in use; None: not known."""

    heads: int
    seconds: float = 0.0
    peak_bytes: int | None = None
    _ends: list[float] = field(default_factory=list)

    def epoch(self) -> None:
        """A head has ended an epoch."""
        self._ends.append(time.perf_counter())

    @property
    def seconds_per_epoch(self) -> float | None:
        """Of one head, with its validation; None where there were no epochs. Time runs from the end of everyone's
        first, so that neither loading nor parents nor the last predictions are in it."""
        later = len(self._ends) - self.heads
        if later > 0:
            return (self._ends[-1] - self._ends[self.heads - 1]) / later
        return self.seconds / len(self._ends) if self._ends else None


@contextmanager
def measure_resources(device: torch.device, heads: int = 1) -> Iterator[ResourceUsage]:
    """Time and memory of what is done inside; both are there when it ends."""
    usage = ResourceUsage(heads)
    peak = _peak_of(device)
    started = time.perf_counter()
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - started
        usage.peak_bytes = peak()


def _job_backbone_macs(job: TrainingJob) -> int | None:
    """Of the networks behind what a head sees at test."""
    specs: list[FeatureSpec] = []
    for name in get_head(job.head).used_modalities(job.options):
        if name == job.recipe.without:
            continue
        of_modality = _seen_at_test(job.data.modalities[name], job.recipe)
        if not of_modality:
            return None
        specs += of_modality
    return backbone_macs(specs)


def _seen_at_test(modality: Modality | StreamedModality, recipe: Recipe) -> list[FeatureSpec]:
    """Without the views that only training draws."""
    if modality.layout is None:
        return list(modality.specs)
    test_views = Views.of(modality, recipe).test_views
    return [spec for number in test_views for spec in modality.layout.alternatives[number]]


def _of_pass(spec: FeatureSpec) -> int | None:
    """Of all that one input of a clip needs."""
    if spec.model is None:
        return None if spec.imported else 0
    items, shape = _items(spec.input)
    once = _of_network(spec.model.backbone, spec.model.revision, shape)
    return None if once is None else items * once


def _items(taken: AnyInput) -> tuple[int, tuple[int, ...]]:
    """How many items a network is given of one clip, and the shape of one, as it takes it."""
    if isinstance(taken, FramesInput):
        frames, height, width, channels = taken.shape
        picture = (channels, height, width)
        return (frames, picture) if taken.kind == "frames" else (1, (frames, *picture))
    if isinstance(taken, ImageInput):
        height, width, channels = taken.shape
        return 1, (channels, height, width)
    return 1, taken.shape


@cache
def _of_network(name: str, revision: int, shape: tuple[int, ...]) -> int | None:
    """Of one item of this shape."""
    try:
        backbone = _here(name)
    except UsageError:
        return None
    if backbone is None or backbone.revision != revision:
        return None
    for device in ("meta", "cpu"):  # some read their own numbers while they run
        try:
            return _counted(backbone, shape, device) or None
        except Exception:  # noqa: BLE001, S112  (a user's own network may raise anything; no reason to lose a result)
            continue
    return None


def _here(name: str) -> "Backbone | None":
    """The backbone of that name, unless it would have to be downloaded. Raises UsageError where there is none."""
    prefix, _, theirs = name.partition(":")
    if prefix == "hf":
        from avfuse.features.backbones.adapters import transformers as any_transformers

        if not any_transformers.checkpoint_of(theirs).is_available:
            return None
    return backbones.get_backbone(name)


def _counted(backbone: "Backbone", shape: tuple[int, ...], device: str) -> int:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        network = backbone.make().eval()
        item = torch.zeros(1, *shape)
        return multiply_adds(lambda: backbone.encode(network, item))


def _batch(job: TrainingJob) -> Tensor:
    """As many training clips as a batch has, from all over the data set and with all modalities where some have them.
    int64 (B,)."""
    data = job.data
    whole = torch.stack([modality.present for modality in data.modalities.values()]).all(dim=0)
    clips = data.train[whole[data.train]] if whole[data.train].any() else data.train
    size = min(job.recipe.batch_size, len(data.train))
    if job.recipe.classes_and_clips is not None:
        size = math.prod(job.recipe.classes_and_clips)
    return clips[torch.arange(size, device=clips.device) * len(clips) // size]


def _dummy_data(data: FusionData, clips: int) -> FusionData:
    """The data set with random numbers in place of features, and of so many clips only."""
    draws = torch.Generator().manual_seed(0)
    device = data.train.device
    modalities = {}
    for name, modality in data.modalities.items():
        tokens = torch.randn(clips, *modality.shape[:2], generator=draws).to(device)
        layout = modality.layout and replace(
            modality.layout, alternatives=modality.layout.alternatives[:1], test_views=(0,)
        )
        everyone = torch.ones(clips, dtype=torch.bool, device=device)
        modalities[name] = Modality(tokens, everyone, modality.specs, None, layout)
    return replace(data, modalities=modalities)


def _peak_of(device: torch.device) -> Callable[[], int | None]:
    """Starts watching; what it returns says how much memory was in use at once since."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return lambda: None
    release_buffers()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the process' high-water mark starts afresh
        return _high_water
    except OSError:
        before = _largest_ever()
        return lambda: None if (now := _largest_ever()) == before else now


def _high_water() -> int | None:
    """VmHWM of proc(5), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None


def _largest_ever() -> int | None:
    """What getrusage(2) says of the process since it began, in bytes: of a part of its life only where it rose then."""
    try:
        import resource
    except ImportError:  # there is none on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
