"""The cost of a trained head: multiply-adds of head and backbones, time, memory."""

from dataclasses import dataclass

from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.macs import evaluation_passes, head_macs, job_backbone_macs
from avfuse.stages.fuse.training.resource_usage import ResourceUsage
from avfuse.stages.fuse.training.trainer import TrainedHead

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cost:
    """Cost of one trained head. None: not known, and never a guess."""

    parameters: int
    """Parameters of the head."""
    macs: int | None
    """Multiply-adds of the head per clip at test, all averaged windows together."""
    backbone_macs: int | None
    """Multiply-adds of the frozen backbones behind the features of such a clip."""
    training_macs: float | None
    """Multiply-adds of a training step's forward passes, per clip, without gradients (about twice as much again)."""
    seconds: float
    """A head's share of the time that its group took, from loading to the last prediction."""
    seconds_per_epoch: float | None
    peak_memory_mib: float | None
    """See `ResourceUsage.peak_bytes`; the heads of a group share it."""
    side_by_side: int
    """The number of heads in the group."""

    @classmethod
    def of(
        cls, job: TrainingJob, trained: TrainedHead, usage: ResourceUsage, training_macs_per_clip: float | None
    ) -> "Cost":
        """The cost of a trained head.

        Args:
            job: that was trained.
            trained: what came of it.
            usage: of its group.
            training_macs_per_clip: `training_macs`, which the jobs of a group have in common.
        """
        pace = usage.seconds_per_epoch
        return cls(
            parameters=trained.parameters,
            macs=head_macs(trained.head, evaluation_passes(job)),
            backbone_macs=job_backbone_macs(job),
            training_macs=training_macs_per_clip,
            seconds=round(usage.seconds / usage.heads, 2),
            seconds_per_epoch=None if pace is None else round(pace, 4),
            peak_memory_mib=None if usage.peak_bytes is None else round(usage.peak_bytes / _MEBIBYTE, 1),
            side_by_side=usage.heads,
        )
