"""Retrieval between sound and picture with a run's trained heads, as tables."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest
from avfuse.stages.fuse.analysis.embeddings import embed_clips
from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY, evaluate_retrieval, nearest_clips
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.runs.run_folder import SeedResult


def measure_rows(
    rows: Mapping[str, Sequence[SeedResult]], data: FusionData, clips: Tensor, split: str, source: str | None
) -> pd.DataFrame:
    """Retrieval measures of every row: one line per row, direction and measure, as shares of 1 but for the median rank.

    Args:
        rows: the seeds of each row that was trained with audio-video contrast.
        clips: int64 (n,), indices of the clips that are queries and candidates, those of `split`.
        source: the modality of queries, or None for both directions.

    Returns columns `row`, `seeds`, `split`, `from`, `to`, `queries`, `candidates`, and those of `Retrieval.measures`.
    """
    truth = [target[clips].cpu().numpy() for target in data.truth]
    groups = data.table["group"].to_numpy(dtype=object)[clips.cpu().numpy()]
    tables = []
    for row, heads in rows.items():
        embeddings = embed_clips(heads, data, clips)
        for direction in OTHER_MODALITY:
            if source in (None, direction):
                result = evaluate_retrieval(embeddings, direction, truth, groups)
                table = result.measures.assign(
                    row=row,
                    seeds=len(heads),
                    split=split,
                    **{"from": direction, "to": OTHER_MODALITY[direction]},
                    queries=len(result.queries),
                    candidates=result.candidates,
                )
                tables.append(table)
    first = ["row", "seeds", "split", "from", "to", "queries", "candidates"]
    return pd.concat(tables, ignore_index=True)[[*first, "measure", "value", "low", "high", "chance"]]


def find_nearest(
    heads: Sequence[SeedResult], data: FusionData, manifest: Manifest, clips: Tensor, query: int, source: str
) -> pd.DataFrame:
    """All candidates among `clips` that have the other modality, the nearest to the query's modality `source` first.

    Returns columns `rank`, `similarity`, `clip_id`, `label` (classes of several targets joined by "+"), `own` (whether
    it is the query's own partner), `path`, `start` and `end` (seconds).
    """
    # the query is embedded with the clips, whether or not it is one of them
    embedded = torch.cat([clips, clips.new_tensor([query])]).unique()
    indices = embedded.cpu().numpy()
    position, candidates = np.searchsorted(indices, query), np.searchsorted(indices, clips.cpu().numpy())
    nearest = nearest_clips(embed_clips(heads, data, embedded), source, int(position), candidates)
    nearest = nearest.assign(clip=indices[nearest["clip"]])
    by_id = {clip.clip_id: clip for clip in manifest.clips()}
    ids = data.table["clip_id"].iloc[nearest["clip"]].tolist()
    return pd.DataFrame(
        {
            "rank": nearest["rank"].to_numpy(),
            "similarity": nearest["similarity"].to_numpy(),
            "clip_id": ids,
            "label": [true_label(data, index) for index in nearest["clip"]],
            "own": (nearest["clip"] == query).to_numpy(),
            "path": [str(by_id[clip_id].path) for clip_id in ids],
            "start": [by_id[clip_id].start for clip_id in ids],
            "end": [by_id[clip_id].end for clip_id in ids],
        }
    )


def find_query(data: FusionData, clip_id: str) -> int:
    """Index of a clip in `data.table`. Raises UsageError for an unknown or an excluded clip."""
    known: list[str] = data.table["clip_id"].tolist()
    if clip_id in known:
        return known.index(clip_id)
    if clip_id in data.excluded:
        raise UsageError(f"--query {clip_id}: the clip was left out of training ({data.excluded[clip_id]})")
    similar = difflib.get_close_matches(clip_id, known, 3) or known[:3]
    raise UsageError(f"--query {clip_id}: no such clip; similar ids are {', '.join(similar)}")


def true_label(data: FusionData, clip: int) -> str:
    """Classes of all targets of the clip at this index; a dash for an unknown one."""
    cells = [data.table[target.name].iloc[clip] for target in data.targets]
    return " + ".join("-" if pd.isna(cell) else cell for cell in cells)
