"""Where audio-video contrast has brought clips together: the vectors of their sound and of their picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.runs.restore import job_from_result, load_auxiliary_losses, load_head
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult
from avfuse.stages.fuse.training.auxiliary_losses import AuxiliaryLosses
from avfuse.stages.fuse.training.inputs import HeadInputs

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"embed_with": "embed_clips", "clips_of": "split_indices"})


@dataclass(frozen=True)
class Embeddings:
    """Clips in the common space of one head, `audio` and `video` by name.

    vectors: float32 (n, 256) of unit length, never NaN. What stands in the rows of clips without the modality means
        nothing.
    has: bool (n,), which clips have the modality.
    """

    vectors: Mapping[str, NDArray[np.float32]]
    has: Mapping[str, NDArray[np.bool_]]


def contrastive_rows(run: Run) -> dict[str, list[SeedResult]]:
    """The rows of a run that have embeddings. Raises UsageError where there is none."""
    found = {row: heads for row, heads in run.heads.items() if heads[0].described["recipe"]["avc"]}
    if not found:
        raise UsageError(
            f"{run.folder}: {', '.join(run.heads)} was trained without audio-video contrast: train with --set avc=0.5"
        )
    return found


def split_indices(data: FusionData, split: str) -> Tensor:
    """Indices, int64 (n,), of `test` clips, of those that heads were trained on (`train`), or of `all` these."""
    fitted = torch.cat([data.train, data.validation])
    parts = {"test": data.test, "train": fitted, "all": torch.cat([fitted, data.test])}
    return parts[split].sort().values


def embed_clips(heads: Sequence[SeedResult], data: FusionData, clips: Tensor) -> list[Embeddings]:
    """The clips at the indices given, int64 (n,), as each saved head embeds them. heads: seeds of one row. data: what
    their run was trained on.

    Raises UsageError where the row was trained without audio-video contrast, where weights are gone, damaged or not
    finite, and for other clips or features than it was trained on.
    """
    loaded = [load_head(one, data) for one in heads]
    objectives = [load_auxiliary_losses(one, head) for one, head in zip(heads, loaded, strict=True)]
    job = job_from_result(heads[0], data)
    fitted = torch.cat([data.train, data.validation])
    inputs = HeadInputs.of(job.head, job.data, fitted, job.options, job.recipe)
    found = [
        embed_with_head(head, objective, inputs, clips) for head, objective in zip(loaded, objectives, strict=True)
    ]
    for one, each in zip(heads, found, strict=True):
        if not all(np.isfinite(vectors).all() for vectors in each.vectors.values()):
            raise UsageError(f"{one.files.stem} gives no numbers: its training diverged, try a lower lr")
    return found


@torch.inference_mode()
def embed_with_head(head: Head, objective: AuxiliaryLosses, inputs: HeadInputs, clips: Tensor) -> Embeddings:
    """The clips at the indices given, int64 (n,), in evaluation mode: what audio-video contrast compares of them. Where
    temporal windows are averaged at test, the direction of the mean of their vectors."""
    head.eval()
    vectors: dict[str, Tensor] = {}
    has: dict[str, Tensor] = {}
    for where, passes in inputs.evaluation_batches(clips):
        every = [objective.embed(head(batch.prepared, batch.present), batch) for batch in passes]
        for name in ("audio", "video"):
            its = [getattr(each, name) for each in every]
            mean = its[0] if len(its) == 1 else F.normalize(torch.stack(its).mean(dim=0), dim=1)
            vectors.setdefault(name, mean.new_empty(len(clips), mean.shape[1]))[where] = mean
            of_clips = getattr(every[0], f"has_{name}")
            has.setdefault(name, of_clips.new_empty(len(clips)))[where] = of_clips
    return Embeddings(
        {name: each.float().cpu().numpy() for name, each in vectors.items()},
        {name: each.cpu().numpy() for name, each in has.items()},
    )
