"""Training heads: the epoch chosen on validation, then a refit on all of train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.malloc import keep_large_buffers
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.metrics import mean_average_precision
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.losses import loss_of_targets
from avfuse.stages.fuse.losses.contrastive import CommonSpace
from avfuse.stages.fuse.training.checkpoint import Checkpoint, under
from avfuse.stages.fuse.training.head_trainer import Fit, Losses, predict
from avfuse.stages.fuse.training.inputs import Inputs
from avfuse.stages.fuse.training.job import Plan
from avfuse.stages.fuse.training.overrides import Training
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
class Trained:
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
    space: CommonSpace | None = None
    """Where contrast draws clips together; None without it."""

    @property
    def parameters(self) -> int:
        """How many numbers the head learns."""
        return sum(parameter.numel() for parameter in self.head.parameters())


def train_head(
    name: str, data: FusionData, seed: int, training: Training, on_epoch: Callable[[], Any] = lambda: None
) -> Trained:
    """Train one head from one seed: the epoch chosen on validation, then a refit on all of train (`train_jobs`).

    name: of a registered head. on_epoch is called after every epoch, of the choice and of the refit.

    Raises UsageError for an unknown head, and for a setting that cannot be.
    """
    return train_jobs([Plan.of(name, data, seed, training)], on_epoch)[0]


def train_jobs(
    plans: Sequence[Plan],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: Checkpoint | None = None,
    *,
    parents: "Parents | None" = None,
    keep_chosen: bool = False,
) -> list[Trained]:
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
    parents = parents or Parents(plans)
    progress = _Progress.of(plans, checkpoint)
    _choose(plans, parents, progress, on_epoch, keep_chosen)
    return _refit(plans, parents, progress, on_epoch)


def choose_epochs(
    plans: Sequence[Plan],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: Checkpoint | None = None,
    *,
    parents: "Parents | None" = None,
) -> list[list[Epoch]]:
    """The first half of `train_jobs`: learning curves on train, until validation says how many epochs to train for.
    Test clips are not looked at, so that what follows may depend on it."""
    progress = _Progress.of(plans, checkpoint)
    _choose(plans, parents or Parents(plans), progress, on_epoch, keep_chosen=False)
    return progress.curves


def refit_jobs(
    plans: Sequence[Plan],
    curves: Sequence[Sequence[Epoch]],
    on_epoch: Callable[[], Any] = lambda: None,
    checkpoint: Checkpoint | None = None,
    *,
    parents: "Parents | None" = None,
) -> list[Trained]:
    """The second half, from the curves that `choose_epochs` gave of the same plans, in any company."""
    progress = _Progress.of(plans, checkpoint)
    if progress.phase == "choose":
        progress.phase, progress.curves = "refit", [list(curve) for curve in curves]
    return _refit(plans, parents or Parents(plans), progress, on_epoch)


class Parents:
    """Heads that others start from, each trained once for all that start from it.

    They train in companies of all that are asked for, so that one comes out of the same sums whatever is done already.
    """

    def __init__(self, plans: Sequence[Plan] = ()) -> None:
        """plans: of the heads that will start from them."""
        self._trained: dict[str, Trained] = {}
        self._companies: dict[str, list[Plan]] = {}
        self.expect(plans)

    def expect(self, plans: Sequence[Plan]) -> None:
        """More heads that will start from some."""
        wanted = {parent.key: parent for plan in plans for parent in plan.parents().values()}
        new = [plan for key, plan in wanted.items() if key not in self._companies]
        for group in job_groups(new, [group_key(plan) for plan in new]):
            self._companies |= {plan.key: group for plan in group}

    def of(self, plan: Plan) -> dict[str, Trained]:
        """Those of one head, by name."""
        keys = {name: parent.key for name, parent in plan.parents().items()}
        for key in keys.values():
            if key not in self._trained:
                group = self._companies[key]
                trained = train_jobs(group, keep_chosen=True)
                self._trained |= {each.key: one for each, one in zip(group, trained, strict=True)}
        return {name: self._trained[key] for name, key in keys.items()}


def _refit(
    plans: Sequence[Plan],
    parents: Parents,
    progress: "_Progress",
    on_epoch: Callable[[], Any],
) -> list[Trained]:
    """Afresh on train and validation, for as many epochs as the curves say."""
    best = [
        best_epoch(curve).epoch if curve else plan.recipe.epochs
        for plan, curve in zip(plans, progress.curves, strict=True)
    ]
    fits = _fits(plans, "all", [{name: one.head for name, one in parents.of(plan).items()} for plan in plans])
    chosen = [_copy(fit, state) if state else None for fit, state in zip(fits, progress.best, strict=True)]
    if fits[0].head.fits_without_epochs:
        for plan, fit in zip(plans, fits, strict=True):
            _fit_at_once(plan, fit)
        best = [0 for _ in plans]
    progress.load(fits)
    for epoch in range(progress.epoch + 1, max(best) + 1):
        for _ in train_epochs([fit for fit, last in zip(fits, best, strict=True) if epoch <= last]):
            on_epoch()
        progress.keep(fits, "refit", epoch)
    return [_trained(*each) for each in zip(plans, fits, progress.curves, best, chosen, strict=True)]


def _choose(
    plans: Sequence[Plan],
    parents: Parents,
    progress: "_Progress",
    on_epoch: Callable[[], Any],
    keep_chosen: bool,
) -> None:
    """Learning curves on train, each until its validation has not improved for a while; none without validation."""
    if progress.phase == "refit" or len(plans[0].data.validation) == 0:
        return
    recipe = plans[0].recipe
    fits = _fits(plans, "train", [{name: one.chosen for name, one in parents.of(plan).items()} for plan in plans])
    progress.load(fits)
    if fits[0].head.fits_without_epochs:
        for number, (plan, fit) in enumerate(zip(plans, fits, strict=True)):
            losses = _fit_at_once(plan, fit)
            logits = predict(fit.head, fit.inputs, plan.data.validation)
            progress.curves[number].append(_validated(plan, fit, 1, losses, logits))
            if keep_chosen:
                progress.best[number] = _weights(fit)
        progress.phase = "refit"
        return
    for epoch in range(progress.epoch + 1, recipe.epochs + 1):
        running = [number for number, curve in enumerate(progress.curves) if _goes_on(curve, recipe, epoch)]
        if not running:
            break
        going_on = [fits[number] for number in running]
        every = zip(running, train_epochs(going_on), predict_heads(going_on, plans[0].data.validation), strict=True)
        for number, losses, logits in every:
            progress.curves[number].append(_validated(plans[number], fits[number], epoch, losses, logits))
            if keep_chosen and best_epoch(progress.curves[number]).epoch == epoch:
                progress.best[number] = _weights(fits[number])
            on_epoch()
        progress.keep(fits, "choose", epoch)
    progress.phase, progress.epoch, progress.states = "refit", 0, None


def _fit_at_once(plan: Plan, fit: Fit) -> Losses:
    """Fit a head without epochs. Returns its loss on what it was fitted on."""
    clips = fit.inputs.indices
    batch = fit.inputs.rows(clips)
    fit.head.fit_without_epochs(batch.prepared, batch.present, [each[clips] for each in fit.truth], plan.seed)
    with torch.no_grad():
        return Losses(fit.loss(batch).item())


def _goes_on(curve: Sequence[Epoch], recipe: Recipe, epoch: int) -> bool:
    return not curve or (curve[-1].epoch == epoch - 1 and epoch - 1 - best_epoch(curve).epoch < recipe.patience)


def _validated(plan: Plan, fit: Fit, epoch: int, losses: Losses, logits: Tensor) -> Epoch:
    """logits: of the validation clips."""
    validation, targets = plan.data.validation, plan.data.targets
    expected = [each[validation] for each in fit.truth]
    loss = loss_of_targets(targets, logits, expected).item()
    return Epoch(epoch, losses.total, loss, _score(targets, logits, expected), losses.parts)


def _fits(plans: Sequence[Plan], clips: Literal["train", "all"], parents: Sequence[Mapping[str, Any]]) -> list[Fit]:
    """Freshly initialised heads on train, or on train and validation. Inputs are shared where data are."""
    if plans[0].data.train.device.type == "cpu":
        keep_large_buffers()
        limit_torch_threads()
    inputs: dict[int, Inputs] = {}
    fits = []
    for plan, its_parents in zip(plans, parents, strict=True):
        data = plan.data
        if id(data) not in inputs:
            indices = data.train if clips == "train" else torch.cat([data.train, data.validation])
            inputs[id(data)] = Inputs.of(plan.head, data, indices, plan.options, plan.recipe)
        truth = _shuffled(data, plan.seed) if plan.shuffle_labels else data.truth
        fits.append(Fit(inputs[id(data)], truth, plan.recipe, plan.seed, its_parents, data.banks))
    return fits


def _trained(plan: Plan, fit: Fit, curve: list[Epoch], last: int, chosen: Head | None) -> Trained:
    data, both = plan.data, fit.inputs.shapes if len(fit.inputs.shapes) == 2 else ()
    head = fit.head.eval()

    def logits(clips: Tensor, without: str | None = None) -> NDArray[np.float32]:
        return predict(head, fit.inputs, clips, without).cpu().numpy()

    without = {name: logits(data.test, name) for name in both}
    too_short = space = None
    if fit.objective is not None:
        too_short, space = fit.objective.count_too_short(fit.inputs.indices), fit.objective.space
    return Trained(head, curve, last, logits(data.test), logits(data.unlabelled), without, chosen, too_short, space)


def _weights(fit: Fit) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in fit.head.state_dict().items()}


def _copy(fit: Fit, state: Mapping[str, Tensor]) -> Head:
    head = fit.inputs.head()
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
    def of(cls, plans: Sequence[Plan], checkpoint: Checkpoint | None) -> "_Progress":
        saved = checkpoint.load() if checkpoint is not None else None
        if saved is None:
            return cls(checkpoint, "choose", 0, [[] for _ in plans], [{} for _ in plans], None)
        tensors, described = saved
        curves = [[Epoch(**epoch) for epoch in curve] for curve in described["curves"]]
        states = [under(tensors, f"{number}.") for number in range(len(plans))]
        best = [under(tensors, f"best.{number}.") for number in range(len(plans))]
        return cls(checkpoint, described["phase"], described["epoch"], curves, best, states)

    def load(self, fits: Sequence[Fit]) -> None:
        """Bring heads to where they were."""
        for fit, state in zip(fits, self.states or (), strict=self.states is not None):
            fit.load(state)

    def keep(self, fits: Sequence[Fit], phase: str, epoch: int) -> None:
        if self.checkpoint is None or not self.checkpoint.is_due():
            return
        tensors = {f"{number}.{name}": each for number, fit in enumerate(fits) for name, each in fit.state().items()}
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
