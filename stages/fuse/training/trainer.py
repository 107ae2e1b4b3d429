"""Training heads: the epoch chosen on validation, then a refit on all of train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.malloc import keep_large_buffers
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.metrics import mean_average_precision
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.losses import multi_target_loss
from avfuse.stages.fuse.losses.contrastive import JointEmbedding
from avfuse.stages.fuse.training.checkpoint import Checkpoint, tensors_under
from avfuse.stages.fuse.training.head_trainer import EpochLosses, HeadTrainer, predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.vectorized import group_key, job_groups, predict_heads, train_epochs
from avfuse.threads import limit_torch_threads


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curve; losses are mean cross-entropy, the score is that of Targets.selection. Where a
    recipe wants more than classification, the loss on train is the weighted sum of `parts`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_score: float
    parts: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """As a line of a table, with a column for each part."""
        line = asdict(self)
        parts = line.pop("parts")
        return {**line, **{f"train_{name}": loss for name, loss in parts.items()}}


@dataclass(frozen=True)
class TrainedHead:
    """A head refitted on all of train, and how it got there. Logits float32 (n, width) in the order of data.test, and
    of data.unlabelled; `without` has those of test clips with a modality taken away, by its name, of heads that take
    both. `chosen` is the head at the best epoch, fitted on train alone, where that was asked for."""

    head: Head
    curve: list[Epoch]
    best_epoch: int
    logits: NDArray[np.float32]
    unlabelled_logits: NDArray[np.float32]
    without: Mapping[str, NDArray[np.float32]]
    chosen: Head | None = None
    too_short: int | None = None
    """How many of the clips masked learning could hide no sound of; None without it."""
    space: JointEmbedding | None = None
    """Where contrast draws clips together; None without it."""

    @property
    def parameters(self) -> int:
        """How many numbers the head learns."""
        return sum(parameter.numel() for parameter in self.head.parameters())


def train_head(
    name: str, data: FusionData, seed: int, training: TrainingOverrides, on_epoch: Callable[[], Any] = lambda: None
) -> TrainedHead:
    """Train one head from one seed: the epoch chosen on validation, then a refit on all of train (`train_jobs`).

    name: of a registered head. on_epoch is called after every epoch, of the choice and of the refit.

    Raises UsageError for an unknown head, and for a setting that cannot be.
    """
    return train_jobs([TrainingJob.of(name, data, seed, training)], on_epoch)[0]


def train_jobs(
    jobs: Sequence[TrainingJob],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: Checkpoint | None = None,
    *,
    parents: "ParentHeads | None" = None,
    keep_chosen: bool = False,
) -> list[TrainedHead]:
    """Train heads of one kind, side by side where that is faster: they may differ in seeds, in features of equal
    shapes, in learning rate, weight decay and L1.

    A head's order of clips and its dropout are drawn from its own seed, so that it comes out the same in any company,
    up to the rounding of sums. The number of epochs is the one with the best validation accuracy (the lower loss among
    equals; what Targets calls selection); the head is then trained afresh for so many epochs on train and validation
    together. Without validation clips nothing is chosen, and it is trained for all epochs. The test split and
    unlabelled clips are only read at the end. Heads that start from others, as Algorithm 1 of MAiVAR has it, have these
    trained first, each from the same seed on the same clips.

    on_epoch is called after every epoch of every head; checkpoint is where training is kept from time to time, and
    goes on from; parents: the heads that these start from, where others do as well.
    """
    parents = parents or ParentHeads(jobs)
    progress = _Progress.of(jobs, checkpoint)
    _choose(jobs, parents, progress, on_epoch, keep_chosen)
    return _refit(jobs, parents, progress, on_epoch)


def choose_epochs(
    jobs: Sequence[TrainingJob],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: Checkpoint | None = None,
    *,
    parents: "ParentHeads | None" = None,
) -> list[list[Epoch]]:
    """The first half of `train_jobs`: learning curves on train, until validation says how many epochs to train for.
    Test clips are not looked at, so that what follows may depend on it."""
    progress = _Progress.of(jobs, checkpoint)
    _choose(jobs, parents or ParentHeads(jobs), progress, on_epoch, keep_chosen=False)
    return progress.curves


def refit_jobs(
    jobs: Sequence[TrainingJob],
    curves: Sequence[Sequence[Epoch]],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: Checkpoint | None = None,
    *,
    parents: "ParentHeads | None" = None,
) -> list[TrainedHead]:
    """The second half, from the curves that `choose_epochs` gave of the same plans, in any company."""
    progress = _Progress.of(jobs, checkpoint)
    if progress.phase == "choose":
        progress.phase, progress.curves = "refit", [list(curve) for curve in curves]
    return _refit(jobs, parents or ParentHeads(jobs), progress, on_epoch)


class ParentHeads:
    """Heads that others start from, each trained once for all that start from it.

    They train in companies of all that are asked for, so that one comes out of the same sums whatever is done already.
    """

    def __init__(self, jobs: Sequence[TrainingJob] = ()) -> None:
        """plans: of the heads that will start from them."""
        self._trained: dict[str, TrainedHead] = {}
        self._companies: dict[str, list[TrainingJob]] = {}
        self.expect(jobs)

    def expect(self, jobs: Sequence[TrainingJob]) -> None:
        """More heads that will start from some."""
        wanted = {parent.key: parent for job in jobs for parent in job.parents().values()}
        new = [job for key, job in wanted.items() if key not in self._companies]
        for group in job_groups(new, [group_key(job) for job in new]):
            self._companies |= {job.key: group for job in group}

    def of(self, job: TrainingJob) -> dict[str, TrainedHead]:
        """Those of one head, by name."""
        keys = {name: parent.key for name, parent in job.parents().items()}
        for key in keys.values():
            if key not in self._trained:
                group = self._companies[key]
                trained = train_jobs(group, keep_chosen=True)
                self._trained |= {each.key: one for each, one in zip(group, trained, strict=True)}
        return {name: self._trained[key] for name, key in keys.items()}


def _refit(
    jobs: Sequence[TrainingJob],
    parents: ParentHeads,
    progress: "_Progress",
    on_epoch: Callable[[], Any],
) -> list[TrainedHead]:
    """Afresh on train and validation, for as many epochs as the curves say."""
    best = [
        best_epoch(curve).epoch if curve else job.recipe.epochs
        for job, curve in zip(jobs, progress.curves, strict=True)
    ]
    trainers = _head_trainers(jobs, "all", [{name: one.head for name, one in parents.of(job).items()} for job in jobs])
    chosen = [_copy(trainer, state) if state else None for trainer, state in zip(trainers, progress.best, strict=True)]
    if trainers[0].head.fits_without_epochs:
        for job, trainer in zip(jobs, trainers, strict=True):
            _fit_without_epochs(job, trainer)
        best = [0 for _ in jobs]
    progress.load(trainers)
    for epoch in range(progress.epoch + 1, max(best) + 1):
        for _ in train_epochs([trainer for trainer, last in zip(trainers, best, strict=True) if epoch <= last]):
            on_epoch()
        progress.keep(trainers, "refit", epoch)
    return [_trained(*each) for each in zip(jobs, trainers, progress.curves, best, chosen, strict=True)]


def _choose(
    jobs: Sequence[TrainingJob],
    parents: ParentHeads,
    progress: "_Progress",
    on_epoch: Callable[[], Any],
    keep_chosen: bool,
) -> None:
    """Learning curves on train, each until its validation has not improved for a while; none without validation."""
    if progress.phase == "refit" or len(jobs[0].data.validation) == 0:
        return
    recipe = jobs[0].recipe
    trainers = _head_trainers(
        jobs, "train", [{name: one.chosen for name, one in parents.of(job).items()} for job in jobs]
    )
    progress.load(trainers)
    if trainers[0].head.fits_without_epochs:
        for number, (job, trainer) in enumerate(zip(jobs, trainers, strict=True)):
            losses = _fit_without_epochs(job, trainer)
            logits = predict(trainer.head, trainer.inputs, job.data.validation)
            progress.curves[number].append(_validated(job, trainer, 1, losses, logits))
            if keep_chosen:
                progress.best[number] = _weights(trainer)
        progress.phase = "refit"
        return
    for epoch in range(progress.epoch + 1, recipe.epochs + 1):
        running = [number for number, curve in enumerate(progress.curves) if _should_continue(curve, recipe, epoch)]
        if not running:
            break
        going_on = [trainers[number] for number in running]
        every = zip(running, train_epochs(going_on), predict_heads(going_on, jobs[0].data.validation), strict=True)
        for number, losses, logits in every:
            progress.curves[number].append(_validated(jobs[number], trainers[number], epoch, losses, logits))
            if keep_chosen and best_epoch(progress.curves[number]).epoch == epoch:
                progress.best[number] = _weights(trainers[number])
            on_epoch()
        progress.keep(trainers, "choose", epoch)
    progress.phase, progress.epoch, progress.states = "refit", 0, None


def _fit_without_epochs(job: TrainingJob, trainer: HeadTrainer) -> EpochLosses:
    """Fit a head without epochs. Returns its loss on what it was fitted on."""
    clips = trainer.inputs.indices
    batch = trainer.inputs.evaluation_batch(clips)
    trainer.head.fit_without_epochs(batch.prepared, batch.present, [each[clips] for each in trainer.truth], job.seed)
    with torch.no_grad():
        return EpochLosses(trainer.losses(batch)["total"].item())


def _should_continue(curve: Sequence[Epoch], recipe: Recipe, epoch: int) -> bool:
    return not curve or (curve[-1].epoch == epoch - 1 and epoch - 1 - best_epoch(curve).epoch < recipe.patience)


def _validated(job: TrainingJob, trainer: HeadTrainer, epoch: int, losses: EpochLosses, logits: Tensor) -> Epoch:
    """logits: of the validation clips."""
    validation, targets = job.data.validation, job.data.targets
    expected = [each[validation] for each in trainer.truth]
    loss = multi_target_loss(targets, logits, expected).item()
    return Epoch(epoch, losses.total, loss, _score(targets, logits, expected), losses.parts)


def _head_trainers(
    jobs: Sequence[TrainingJob], clips: Literal["train", "all"], parents: Sequence[Mapping[str, Any]]
) -> list[HeadTrainer]:
    """Freshly initialised heads on train, or on train and validation. Inputs are shared where data are."""
    if jobs[0].data.train.device.type == "cpu":
        keep_large_buffers()
        limit_torch_threads()
    inputs: dict[int, HeadInputs] = {}
    trainers = []
    for job, its_parents in zip(jobs, parents, strict=True):
        data = job.data
        if id(data) not in inputs:
            indices = data.train if clips == "train" else torch.cat([data.train, data.validation])
            inputs[id(data)] = HeadInputs.of(job.head, data, indices, job.options, job.recipe)
        truth = _shuffled(data, job.seed) if job.shuffle_labels else data.truth
        trainers.append(HeadTrainer(inputs[id(data)], truth, job.recipe, job.seed, its_parents, data.banks))
    return trainers


def _trained(job: TrainingJob, trainer: HeadTrainer, curve: list[Epoch], last: int, chosen: Head | None) -> TrainedHead:
    data, both = job.data, trainer.inputs.shapes if len(trainer.inputs.shapes) == 2 else ()
    head = trainer.head.eval()

    def logits(clips: Tensor, without: str | None = None) -> NDArray[np.float32]:
        return predict(head, trainer.inputs, clips, without).cpu().numpy()

    without = {name: logits(data.test, name) for name in both}
    too_short = space = None
    if trainer.auxiliary is not None:
        too_short, space = trainer.auxiliary.count_too_short(trainer.inputs.indices), trainer.auxiliary.space
    return TrainedHead(head, curve, last, logits(data.test), logits(data.unlabelled), without, chosen, too_short, space)


def _weights(trainer: HeadTrainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.head.state_dict().items()}


def _copy(trainer: HeadTrainer, state: Mapping[str, Tensor]) -> Head:
    head = trainer.inputs.new_head()
    head.load_state_dict(dict(state))
    return head.eval()


@dataclass
class _Progress:
    """How far a company is, in memory and where it is kept."""

    checkpoint: Checkpoint | None
    phase: str
    epoch: int
    curves: list[list[Epoch]]
    best: list[dict[str, Tensor]]
    states: list[dict[str, Tensor]] | None

    @classmethod
    def of(cls, jobs: Sequence[TrainingJob], checkpoint: Checkpoint | None) -> "_Progress":
        saved = checkpoint.load() if checkpoint is not None else None
        if saved is None:
            return cls(checkpoint, "choose", 0, [[] for _ in jobs], [{} for _ in jobs], None)
        tensors, described = saved
        curves = [[Epoch(**epoch) for epoch in curve] for curve in described["curves"]]
        states = [tensors_under(tensors, f"{number}.") for number in range(len(jobs))]
        best = [tensors_under(tensors, f"best.{number}.") for number in range(len(jobs))]
        return cls(checkpoint, described["phase"], described["epoch"], curves, best, states)

    def load(self, trainers: Sequence[HeadTrainer]) -> None:
        """Bring heads to where they were."""
        for trainer, state in zip(trainers, self.states or (), strict=self.states is not None):
            trainer.load(state)

    def keep(self, trainers: Sequence[HeadTrainer], phase: str, epoch: int) -> None:
        if self.checkpoint is None or not self.checkpoint.is_due():
            return
        tensors = {
            f"{number}.{name}": each
            for number, trainer in enumerate(trainers)
            for name, each in trainer.state().items()
        }
        tensors |= {f"best.{number}.{n}": each for number, own in enumerate(self.best) for n, each in own.items()}
        curves = [[asdict(each) for each in curve] for curve in self.curves]
        self.checkpoint.save(tensors, {"phase": phase, "epoch": epoch, "curves": curves})


def best_epoch(curve: Sequence[Epoch]) -> Epoch:
    """The one of the best validation score, of the lower loss among equals."""
    return max(curve, key=lambda epoch: (epoch.validation_score, -epoch.validation_loss, -epoch.epoch))


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


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Trained": "TrainedHead", "Parents": "ParentHeads", "train_company": "train_jobs"})
