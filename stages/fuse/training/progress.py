"""Training progress of a group of jobs, in memory and in its checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from avfuse.stages.fuse.training.checkpoint import TrainingCheckpoint, tensors_under
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.learning_curve import Epoch


@dataclass
class TrainingProgress:
    """The state of training, between its two phases and after each epoch. Lists are in the order of the jobs."""

    checkpoint: TrainingCheckpoint | None
    phase: str
    """choose (the number of epochs) or refit."""
    epoch: int
    """The last one that was trained in this phase."""
    curves: list[list[Epoch]]
    """Learning curves so far."""
    best: list[dict[str, Tensor]]
    """Weights at the best epoch so far, where they are kept."""
    states: list[dict[str, Tensor]] | None
    """States of the trainers in a checkpoint, until they have resumed."""

    @classmethod
    def of(cls, jobs: int, checkpoint: TrainingCheckpoint | None) -> "TrainingProgress":
        """The progress that a checkpoint holds, or none yet."""
        saved = checkpoint.load() if checkpoint is not None else None
        if saved is None:
            return cls(checkpoint, "choose", 0, [[] for _ in range(jobs)], [{} for _ in range(jobs)], None)
        tensors, metadata = saved
        curves = [[Epoch(**epoch) for epoch in curve] for curve in metadata["curves"]]
        states = [tensors_under(tensors, f"{number}.") for number in range(jobs)]
        best = [tensors_under(tensors, f"best.{number}.") for number in range(jobs)]
        return cls(checkpoint, metadata["phase"], metadata["epoch"], curves, best, states)

    def resume(self, trainers: Sequence[HeadTrainer]) -> None:
        """Load what the checkpoint had of the trainers."""
        for trainer, state in zip(trainers, self.states or (), strict=self.states is not None):
            trainer.load(state)

    def start_refit(self) -> None:
        self.phase, self.epoch, self.states = "refit", 0, None

    def save_if_due(self, trainers: Sequence[HeadTrainer], epoch: int) -> None:
        """Write the checkpoint, where there is one and the last is long ago."""
        if self.checkpoint is None or not self.checkpoint.is_due():
            return
        tensors = {
            f"{number}.{name}": tensor
            for number, trainer in enumerate(trainers)
            for name, tensor in trainer.state().items()
        }
        tensors |= {
            f"best.{number}.{name}": tensor
            for number, weights in enumerate(self.best)
            for name, tensor in weights.items()
        }
        curves = [[asdict(point) for point in curve] for curve in self.curves]
        self.checkpoint.save(tensors, {"phase": self.phase, "epoch": epoch, "curves": curves})
