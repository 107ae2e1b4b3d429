"""Embeddings of clips by heads trained with audio-video contrast: a vector of their sound and one of their picture."""

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
    """Clips in the joint embedding of one head, `audio` and `video` by name."""

    vectors: Mapping[str, NDArray[np.float32]]
    """(n, 256) of unit length, never NaN; rows of clips without the modality mean nothing."""
    has: Mapping[str, NDArray[np.bool_]]
    """(n,), which clips have the modality."""


def contrastive_rows(run: Run) -> dict[str, list[SeedResult]]:
    """The rows of a run that have embeddings. Raises UsageError where there is none."""
    rows = {row: results for row, results in run.heads.items() if results[0].described["recipe"]["avc"]}
    if not rows:
        raise UsageError(
            f"{run.folder}: {', '.join(run.heads)} was trained without audio-video contrast: train with --set avc=0.5"
        )
    return rows


def split_indices(data: FusionData, split: str) -> Tensor:
    """Indices, int64 (n,), of clips of a split: `test`, `train` (all that heads were trained on), or `all` of these."""
    fitted = torch.cat([data.train, data.validation])
    parts = {"test": data.test, "train": fitted, "all": torch.cat([fitted, data.test])}
    return parts[split].sort().values


def embed_clips(heads: Sequence[SeedResult], data: FusionData, clips: Tensor) -> list[Embeddings]:
    """Embed clips with each saved head.

    Args:
        heads: seeds of one row.
        data: the data that their run was trained on.
        clips: int64 (n,), indices.

    Raises:
        UsageError: the row was trained without audio-video contrast, weights are missing, damaged or not finite, or
            the data are not those that it was trained on.
    """
    restored = [load_head(result, data) for result in heads]
    losses = [load_auxiliary_losses(result, head) for result, head in zip(heads, restored, strict=True)]
    job = job_from_result(heads[0], data)
    fitted = torch.cat([data.train, data.validation])
    inputs = HeadInputs.of(job.head, job.data, fitted, job.options, job.recipe)
    embeddings = [embed_with_head(head, of_head, inputs, clips) for head, of_head in zip(restored, losses, strict=True)]
    for result, of_head in zip(heads, embeddings, strict=True):
        if not all(np.isfinite(vectors).all() for vectors in of_head.vectors.values()):
            raise UsageError(f"{result.files.stem} gives no numbers: its training diverged, try a lower lr")
    return embeddings


@torch.inference_mode()
def embed_with_head(head: Head, losses: AuxiliaryLosses, inputs: HeadInputs, clips: Tensor) -> Embeddings:
    """Embed clips (n,) in evaluation mode, as audio-video contrast compares them: where temporal windows are averaged
    at test, in the direction of the mean of their vectors."""
    head.eval()
    vectors: dict[str, Tensor] = {}
    has: dict[str, Tensor] = {}
    for positions, views in inputs.evaluation_batches(clips):
        embedded = [losses.embed(head(batch.prepared, batch.present), batch) for batch in views]
        for name in ("audio", "video"):
            of_views = [getattr(of_view, name) for of_view in embedded]
            mean = of_views[0] if len(of_views) == 1 else F.normalize(torch.stack(of_views).mean(dim=0), dim=1)
            vectors.setdefault(name, mean.new_empty(len(clips), mean.shape[1]))[positions] = mean
            mask = getattr(embedded[0], f"has_{name}")
            has.setdefault(name, mask.new_empty(len(clips)))[positions] = mask
    return Embeddings(
        {name: of_modality.float().cpu().numpy() for name, of_modality in vectors.items()},
        {name: mask.cpu().numpy() for name, mask in has.items()},
    )
