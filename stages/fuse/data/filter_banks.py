"""The normalised filter banks of all clips in memory, for masked reconstruction."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from avfuse.features.cache import FeatureStore
from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.clips import Clip
from avfuse.features.inputs.filter_bank import FRAMES, MEL_BANDS
from avfuse.stages.fuse.data.audio_masking import (
    count_valid_frames,
    segment_boundaries,
    stack_boundaries,
)
from avfuse.threads import available_cores

BYTES_PER_CLIP = 2 * FRAMES * MEL_BANDS
_PART = 64
"""Clips per batch."""


@dataclass(frozen=True)
class FilterBanks:
    """The normalised filter bank of every clip."""

    key: str
    """Key of the feature."""
    rows: Tensor
    """float16 (n, 1024, 128), time first; meaningless where `present` is False."""
    present: Tensor
    """Whether a clip has sound, bool (n,)."""

    @classmethod
    def load(cls, store: FeatureStore, clips: Sequence[Clip], device: str) -> "FilterBanks":
        """Read those of clips, in order. Raises UsageError for damaged shards, and where no clip has one."""
        rows = np.zeros((len(clips), FRAMES, MEL_BANDS), np.float16)
        present = np.zeros(len(clips), bool)
        for batch in FeatureStream({"banks": store}, clips, _PART, shuffle=False).batches():
            rows[batch.index], present[batch.index] = batch.data["banks"], batch.present["banks"]
        return cls(store.key, torch.from_numpy(rows).to(device), torch.from_numpy(present).to(device))

    @cached_property
    def valid_frames(self) -> Tensor:
        """Frames before the padding: int64 (n,), 0 for clips without sound."""
        return torch.cat([count_valid_frames(part) for part in self.rows.split(_PART)]) * self.present

    @cached_property
    def boundaries(self) -> Tensor:
        """Segment boundaries, int64 (n, 51), see `segment_boundaries`: some milliseconds per clip."""
        parts = zip(self.rows.cpu().split(_PART), self.valid_frames.cpu().split(_PART), strict=True)
        jobs = (delayed(_boundaries)(*part) for part in parts)
        return torch.cat(Parallel(n_jobs=available_cores(), prefer="threads")(jobs)).to(self.rows.device)


def _boundaries(banks: Tensor, valid_frames: Tensor) -> Tensor:
    clips = zip(banks.numpy(), valid_frames.tolist(), strict=True)
    return stack_boundaries([segment_boundaries(bank, frames) for bank, frames in clips])
