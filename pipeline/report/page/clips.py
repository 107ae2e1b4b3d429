"""What the clip explorer reads: every test clip with what each row says of it, and pictures and sound of some."""

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
from avfuse.pipeline.report.page.media import cached_images, look
from avfuse.pipeline.report.page.rows import PageRows
from avfuse.stages.fuse.evaluation.metrics import mean_probabilities
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.runs.summary import correct_matrix

TOP = 5


@dataclass(frozen=True)
class PageOptions:
    """What the page may hold. clips: of how many at most there are pictures and sound; sound: whether it is heard;
    maps: whether rows are explained; bytes: how large the page may become."""

    clips: int = 24
    sound: bool = True
    maps: bool = True
    bytes: int = 10_000_000


def listed(page: PageRows) -> list[dict[str, Any]]:
    """A line a test clip, those on which rows disagree most first: `id`; `label`, its true classes in words; `truth`,
    their numbers, a list a target; `right`, the share of seeds that get it right, a row; `top`, the likeliest classes
    with their probabilities (means over seeds, in tenths of a per cent), a row and a target; `likely_right`, whether
    the means are right, a row."""
    targets, first = page.targets, page.first
    means = [mean_probabilities(targets, [result.logits for result in row.heads]) for row in page.rows]
    seeds_right = np.stack([correct_matrix(targets, row.heads).mean(axis=0) for row in page.rows])
    likely_right = np.stack([likeliest_correct(each, first.truth) for each in means])
    tops = [[_top(part) for part in each] for each in means]
    disagreement = np.minimum(likely_right.sum(axis=0), (~likely_right).sum(axis=0))
    order = np.argsort(-disagreement, kind="stable")
    return [
        {
            "id": first.clip_ids[at],
            "label": true_label(targets, first, at),
            "truth": [_true(truth[at]) for truth in first.truth],
            "right": [round(float(each), 2) for each in seeds_right[:, at]],
            "likely_right": likely_right[:, at].astype(int).tolist(),
            "top": [[part[at] for part in each] for each in tops],
        }
        for at in order.tolist()
    ]


def fitting(clips: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The first clips whose lines take no more than so many bytes."""
    total, found = 0, []
    for clip in clips:
        total += len(json.dumps(clip, separators=(",", ":")))
        if total > limit:
            break
        found.append(clip)
    return found


def with_media(
    page: PageRows, manifest: Manifest, cache: Path, options: PageOptions
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids of clips, the most disputed first, with pictures, sound and maps, one by one."""
    chosen = most_disputed(page.merged, options.clips)
    known = {clip.clip_id: clip for clip in manifest.clips()}
    ids = [page.first.clip_ids[number] for number in chosen]
    clips = [known[clip_id] for clip_id in ids if clip_id in known]
    attended: dict[str, tuple[Run, RowExplanations]] = {}
    if options.maps and clips:
        attended = {row.name: (row.run, explain_row(row.run, row.heads[0].row, cache, clips)) for row in page.rows}
    for at, clip in enumerate(clips):
        media = look(clip, options.sound)
        found: dict[str, Any] = {
            "frames": [list(each) for each in media.frames],
            "images": media.images or cached_images(clip, cache, manifest.collection),
            "sound": media.sound,
            "notes": media.notes,
        }
        if attended:
            drawer = HeatmapDrawer(clip, attended)
            found["maps"] = drawer.draw(at)
            found["pictures"] = drawer.pictures
        yield clip.clip_id, found


def _top(probabilities: NDArray[np.float64]) -> list[list[list[int]]]:
    """(n, C) -> of each clip the likeliest classes, with their probabilities in thousandths."""
    count = min(TOP, probabilities.shape[1])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    parts = np.rint(1000 * np.take_along_axis(probabilities, order, axis=1)).astype(int)
    return np.stack([order, parts], axis=2).tolist()  # type: ignore[no-any-return]


def _true(truth: Any) -> list[int]:
    return np.flatnonzero(truth).tolist() if np.ndim(truth) else [int(truth)]
