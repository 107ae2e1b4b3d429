"""Data of the clip explorer: every test clip with the predictions of each row, and pictures and sound of some."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfuse.manifests import Manifest
from avfuse.pipeline.report.disagreement import likeliest_correct, most_disputed, true_label
from avfuse.pipeline.report.page.heatmaps import HeatmapDrawer, RowExplanations, explain_row
from avfuse.pipeline.report.page.media import cached_images, clip_media
from avfuse.pipeline.report.page.rows import PageRows
from avfuse.stages.fuse.evaluation.metrics import mean_probabilities
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.runs.summary import correct_matrix

TOP = 5


@dataclass(frozen=True)
class PageOptions:
    """Contents of a page."""

    clips: int = 24  # maximum number of clips with pictures and sound
    sound: bool = True
    maps: bool = True  # whether the page has heatmaps of rows
    bytes: int = 10_000_000  # maximum size of the page


def listed(page: PageRows) -> list[dict[str, Any]]:
    """One record per test clip, most disagreement between rows first: `id`; `label`, its true classes in words;
    `truth`, their numbers per target; `right`, the share of seeds that are right, per row; `top`, the likeliest classes
    with probabilities (means over seeds, in thousandths), per row and target; `likely_right`, whether the means are
    right, per row."""
    targets, first = page.targets, page.first
    means = [mean_probabilities(targets, [result.logits for result in row.heads]) for row in page.rows]
    seeds_right = np.stack([correct_matrix(targets, row.heads).mean(axis=0) for row in page.rows])
    likely_right = np.stack([likeliest_correct(parts, first.truth) for parts in means])
    tops = [[_top(part) for part in parts] for parts in means]
    disagreement = np.minimum(likely_right.sum(axis=0), (~likely_right).sum(axis=0))
    order = np.argsort(-disagreement, kind="stable")
    return [
        {
            "id": first.clip_ids[at],
            "label": true_label(targets, first, at),
            "truth": [_true(truth[at]) for truth in first.truth],
            "right": [round(float(share), 2) for share in seeds_right[:, at]],
            "likely_right": likely_right[:, at].astype(int).tolist(),
            "top": [[part[at] for part in parts] for parts in tops],
        }
        for at in order.tolist()
    ]


def fitting(clips: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The first clips whose records take no more than `limit` bytes."""
    total, kept = 0, []
    for clip in clips:
        total += len(json.dumps(clip, separators=(",", ":")))
        if total > limit:
            break
        kept.append(clip)
    return kept


def with_media(
    page: PageRows, manifest: Manifest, cache: Path, options: PageOptions
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ids of clips with pictures, sound and maps, most disagreement between rows first."""
    chosen = most_disputed(page.merged, options.clips)
    known = {clip.clip_id: clip for clip in manifest.clips()}
    ids = [page.first.clip_ids[number] for number in chosen]
    clips = [known[clip_id] for clip_id in ids if clip_id in known]
    explained: dict[str, tuple[Run, RowExplanations]] = {}
    if options.maps and clips:
        explained = {row.name: (row.run, explain_row(row.run, row.heads[0].row, cache, clips)) for row in page.rows}
    for at, clip in enumerate(clips):
        media = clip_media(clip, options.sound)
        record: dict[str, Any] = {
            "frames": [list(frame) for frame in media.frames],
            "images": media.images or cached_images(clip, cache, manifest.collection),
            "sound": media.sound,
            "notes": media.notes,
        }
        if explained:
            drawer = HeatmapDrawer(clip, explained)
            record["maps"] = drawer.draw(at)
            record["pictures"] = drawer.pictures
        yield clip.clip_id, record


def _top(probabilities: NDArray[np.float64]) -> list[list[list[int]]]:
    """Per clip the likeliest classes with their probabilities in thousandths, from (n, C)."""
    count = min(TOP, probabilities.shape[1])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    parts = np.rint(1000 * np.take_along_axis(probabilities, order, axis=1)).astype(int)
    return np.stack([order, parts], axis=2).tolist()  # type: ignore[no-any-return]


def _true(truth: Any) -> list[int]:
    return np.flatnonzero(truth).tolist() if np.ndim(truth) else [int(truth)]
