"""Training heads: the number of epochs chosen on validation, then a refit on all of train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.malloc import keep_large_buffers
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.losses.contrastive import JointEmbedding
from avfuse.stages.fuse.training.checkpoint import TrainingCheckpoint
from avfuse.stages.fuse.training.head_trainer import EpochLosses, HeadTrainer, predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.learning_curve import Epoch, best_epoch, should_continue
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.progress import TrainingProgress
from avfuse.stages.fuse.training.vectorized import group_key, job_groups, predict_heads, train_epochs
from avfuse.threads import limit_torch_threads


@dataclass(frozen=True)
class TrainedHead:
    """A head refitted on all of train, and how it got there."""

    head: Head
    curve: list[Epoch]
    """The learning curve of the choice; empty without validation clips."""
    best_epoch: int
    """The number of epochs of the refit; 0 for heads that are fitted without epochs."""
    logits: NDArray[np.float32]
    """(n, width), in the order of data.test."""
    unlabelled_logits: NDArray[np.float32]
    """Likewise of data.unlabelled."""
    without: Mapping[str, NDArray[np.float32]]
    """Logits of test clips without a modality, by its name, of heads that use both."""
    chosen: Head | None = None
    """The head at the best epoch, trained without validation clips, where that was asked for."""
    too_short: int | None = None
    """The number of clips whose sound is too short to mask; None without masked reconstruction."""
    space: JointEmbedding | None = None
    """The joint embedding of the contrastive losses; None without these."""

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(parameter.numel() for parameter in self.head.parameters())


def train_head(
    name: str, data: FusionData, seed: int, training: TrainingOverrides, on_epoch: Callable[[], Any] = lambda: None
) -> TrainedHead:
    """Train one head from one seed: the number of epochs chosen on validation, then a refit on all of train.

    Args:
        name: of a registered head.
        data: the data set.
        seed: of initial weights, shuffling and augmentation.
        training: the user's settings.
        on_epoch: called after every epoch, of the choice and of the refit.

    Raises:
        UsageError: for an unknown head, or a setting's invalid value.
    """
    return train_jobs([TrainingJob.of(name, data, seed, training)], on_epoch)[0]


def train_jobs(
    jobs: Sequence[TrainingJob],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: TrainingCheckpoint | None = None,
    *,
    parents: "ParentHeads | None" = None,
    keep_chosen: bool = False,
) -> list[TrainedHead]:
    """Train heads of one kind, in one pass where that is faster.

    The number of epochs is that of the best validation score (see Targets.selection; the lower loss among equals). The
    head is then trained afresh for as many epochs on train and validation together. Without validation clips it trains
    for all epochs. Test and unlabelled clips are only read at the end.

    Order of clips, dropout and the like are drawn from a head's own seed: it comes out the same whatever trains beside
    it, up to the rounding of sums. Parents (Algorithm 1 of MAiVAR) are trained first, from the same seed on the same
    clips.

    Args:
        jobs: of one kind of head; they may differ in seed, in features of equal shapes, and in `PER_HEAD`.
        on_epoch: called after every epoch of every head.
        checkpoint: written from time to time, and resumed from.
        parents: heads that these start from, where other jobs share them.
        keep_chosen: whether to keep the head at the best epoch, before the refit.
    """
    parents = parents or ParentHeads(jobs)
    progress = TrainingProgress.of(len(jobs), checkpoint)
    _choose(jobs, parents, progress, on_epoch, keep_chosen)
    return _refit(jobs, parents, progress, on_epoch)


def choose_epochs(
    jobs: Sequence[TrainingJob],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: TrainingCheckpoint | None = None,
    *,
    parents: "ParentHeads | None" = None,
) -> list[list[Epoch]]:
    """The first half of `train_jobs`: learning curves on train until validation has chosen the number of epochs. Test
    clips are not read, so that a sweep may decide by the curves which jobs go on."""
    progress = TrainingProgress.of(len(jobs), checkpoint)
    _choose(jobs, parents or ParentHeads(jobs), progress, on_epoch, keep_chosen=False)
    return progress.curves


def refit_jobs(
    jobs: Sequence[TrainingJob],
    curves: Sequence[Sequence[Epoch]],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: TrainingCheckpoint | None = None,
    *,
    parents: "ParentHeads | None" = None,
) -> list[TrainedHead]:
    """The second half of `train_jobs`, from the curves that `choose_epochs` gave for the same jobs, in any groups."""
    progress = TrainingProgress.of(len(jobs), checkpoint)
    if progress.phase == "choose":
        progress.phase, progress.curves = "refit", [list(curve) for curve in curves]
    return _refit(jobs, parents or ParentHeads(jobs), progress, on_epoch)


class ParentHeads:
    """Heads that others start from, each trained once for all that start from it.

    Their groups depend on all jobs of an experiment: a parent comes out of the same sums whatever is finished already.

    jobs: that will start from parents.
    """

    def __init__(self, jobs: Sequence[TrainingJob] = ()) -> None:
        self._trained: dict[str, TrainedHead] = {}
        self._groups: dict[str, list[TrainingJob]] = {}
        self.expect(jobs)

    def expect(self, jobs: Sequence[TrainingJob]) -> None:
        """Add jobs that will start from parents."""
        parents = {parent.key: parent for job in jobs for parent in job.parents().values()}
        new = [job for key, job in parents.items() if key not in self._groups]
        for group in job_groups(new, [group_key(job) for job in new]):
            self._groups |= {job.key: group for job in group}

    def of(self, job: TrainingJob) -> dict[str, TrainedHead]:
        """The parents of one job, by name."""
        keys = {name: parent.key for name, parent in job.parents().items()}
        for key in keys.values():
            if key not in self._trained:
                group = self._groups[key]
                trained = train_jobs(group, keep_chosen=True)
                self._trained |= {parent.key: head for parent, head in zip(group, trained, strict=True)}
        return {name: self._trained[key] for name, key in keys.items()}


def _choose(
    jobs: Sequence[TrainingJob],
    parents: ParentHeads,
    progress: TrainingProgress,
    on_epoch: Callable[[], Any],
    keep_chosen: bool,
) -> None:
    """Fill the learning curves: train on train, each head until its validation score stops improving."""
    if progress.phase == "refit" or len(jobs[0].data.validation) == 0:
        return
    recipe, validation = jobs[0].recipe, jobs[0].data.validation
    chosen_parents = [{name: parent.chosen for name, parent in parents.of(job).items()} for job in jobs]
    trainers = _trainers(jobs, "train", chosen_parents)
    progress.resume(trainers)

    def validate(number: int, epoch: int, losses: EpochLosses, logits: Tensor) -> None:
        truth = [target[jobs[number].data.validation] for target in trainers[number].truth]
        curve = progress.curves[number]
        curve.append(Epoch.of(epoch, losses, jobs[number].data.targets, logits, truth))
        if keep_chosen and best_epoch(curve).epoch == epoch:
            weights = trainers[number].head.state_dict()
            progress.best[number] = {name: value.detach().clone() for name, value in weights.items()}

    if trainers[0].head.fits_without_epochs:
        for number, trainer in enumerate(trainers):
            losses = _fit_without_epochs(trainer)
            validate(number, 1, losses, predict(trainer.head, trainer.inputs, jobs[number].data.validation))
        progress.phase = "refit"
        return
    for epoch in range(progress.epoch + 1, recipe.epochs + 1):
        numbers = [number for number, curve in enumerate(progress.curves) if should_continue(curve, recipe, epoch)]
        if not numbers:
            break
        running = [trainers[number] for number in numbers]
        results = zip(numbers, train_epochs(running), predict_heads(running, validation), strict=True)
        for number, losses, logits in results:
            validate(number, epoch, losses, logits)
            on_epoch()
        progress.save_if_due(trainers, epoch)
    progress.start_refit()


def _refit(
    jobs: Sequence[TrainingJob], parents: ParentHeads, progress: TrainingProgress, on_epoch: Callable[[], Any]
) -> list[TrainedHead]:
    """Train afresh on train and validation, for as many epochs as the curves say."""
    progress.phase = "refit"
    epochs = [
        best_epoch(curve).epoch if curve else job.recipe.epochs
        for job, curve in zip(jobs, progress.curves, strict=True)
    ]
    refitted_parents = [{name: parent.head for name, parent in parents.of(job).items()} for job in jobs]
    trainers = _trainers(jobs, "all", refitted_parents)
    chosen = [_chosen_head(trainer, best) for trainer, best in zip(trainers, progress.best, strict=True)]
    if trainers[0].head.fits_without_epochs:
        for trainer in trainers:
            _fit_without_epochs(trainer)
        epochs = [0 for _ in jobs]
    progress.resume(trainers)
    for epoch in range(progress.epoch + 1, max(epochs) + 1):
        for _ in train_epochs([trainer for trainer, last in zip(trainers, epochs, strict=True) if epoch <= last]):
            on_epoch()
        progress.save_if_due(trainers, epoch)
    return list(map(_trained_head, jobs, trainers, progress.curves, epochs, chosen))


def _trainers(
    jobs: Sequence[TrainingJob], clips: Literal["train", "all"], parents: Sequence[Mapping[str, Any]]
) -> list[HeadTrainer]:
    """Freshly initialised heads on train, or on train and validation. Jobs on the same data share their inputs."""
    if jobs[0].data.train.device.type == "cpu":
        keep_large_buffers()
        limit_torch_threads()
    inputs: dict[int, HeadInputs] = {}
    trainers = []
    for job, parents_of_job in zip(jobs, parents, strict=True):
        data = job.data
        if id(data) not in inputs:
            indices = data.train if clips == "train" else torch.cat([data.train, data.validation])
            inputs[id(data)] = HeadInputs.of(job.head, data, indices, job.options, job.recipe)
        truth = shuffled_truth(data, job.seed) if job.shuffle_labels else data.truth
        trainers.append(HeadTrainer(inputs[id(data)], truth, job.recipe, job.seed, parents_of_job, data.banks))
    return trainers


def _fit_without_epochs(trainer: HeadTrainer) -> EpochLosses:
    """Fit a head without epochs. Returns its loss on the clips that it was fitted on."""
    indices = trainer.inputs.indices
    batch = trainer.inputs.evaluation_batch(indices)
    truth = [target[indices] for target in trainer.truth]
    trainer.head.fit_without_epochs(batch.prepared, batch.present, truth, trainer.seed)
    with torch.no_grad():
        return EpochLosses(trainer.losses(batch)["total"].item())


def _chosen_head(trainer: HeadTrainer, weights: Mapping[str, Tensor]) -> Head | None:
    """A head with the weights of the best epoch; None where these were not kept."""
    if not weights:
        return None
    head = trainer.inputs.new_head()
    head.load_state_dict(dict(weights))
    return head.eval()


def _trained_head(
    job: TrainingJob, trainer: HeadTrainer, curve: list[Epoch], epochs: int, chosen: Head | None
) -> TrainedHead:
    data, head, modalities = job.data, trainer.head.eval(), trainer.inputs.shapes

    def logits(clips: Tensor, without: str | None = None) -> NDArray[np.float32]:
        return predict(head, trainer.inputs, clips, without).cpu().numpy()

    without = {name: logits(data.test, name) for name in modalities} if len(modalities) == 2 else {}
    too_short = space = None
    if trainer.auxiliary is not None:
        too_short, space = trainer.auxiliary.count_too_short(trainer.inputs.indices), trainer.auxiliary.space
    return TrainedHead(
        head, curve, epochs, logits(data.test), logits(data.unlabelled), without, chosen, too_short, space
    )


def shuffled_truth(data: FusionData, seed: int) -> list[Tensor]:
    """The truth with that of train and validation clips permuted among these, all targets of a clip together; that of
    test clips stays."""
    fitted = torch.cat([data.train, data.validation])
    order = torch.randperm(len(fitted), generator=torch.Generator().manual_seed(seed)).to(fitted.device)
    shuffled = [target.clone() for target in data.truth]
    for target, original in zip(shuffled, data.truth, strict=True):
        target[fitted] = original[fitted[order]]
    return shuffled


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Trained": "TrainedHead", "Parents": "ParentHeads", "train_company": "train_jobs"})
