"""Rows of one run or of several over the same test clips, as a page shows them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from avfuse.pipeline.report.run_reference import RunRef
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.runs.restore import match_test_clips
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult
from avfuse.stages.fuse.runs.summary import Row, summarise


@dataclass(frozen=True)
class PageRow:
    """A row of a run. `heads`, result per seed, have the clips in the order of the page's first run."""

    name: str
    run: Run
    heads: list[SeedResult]


@dataclass(frozen=True)
class PageRows:
    """Rows of runs of one data set; `summaries` are theirs, under the same names."""

    runs: tuple[Run, ...]
    rows: tuple[PageRow, ...]
    summaries: tuple[Row, ...]

    @property
    def first(self) -> SeedResult:
        """The first seed of the first row, for the clips and their truth."""
        return self.rows[0].heads[0]

    @property
    def targets(self) -> Targets:
        return self.runs[0].targets

    @property
    def merged(self) -> Run:
        """All rows as rows of one run, by their names on the page."""
        return replace(self.runs[0], heads={row.name: row.heads for row in self.rows})

    @property
    def untrained(self) -> list[str]:
        return sorted({name for run in self.runs for name in run.described["untrained"]})

    @property
    def shuffled(self) -> list[str]:
        """Folders of control runs with shuffled labels."""
        return [str(run.folder) for run in self.runs if run.described["training"]["shuffle_labels"]]

    def row(self, name: str) -> PageRow:
        return next(row for row in self.rows if row.name == name)


def merge(refs: Sequence[RunRef]) -> PageRows:
    """Merge the rows of runs, in their order. A row that several runs have is named `RUN: ROW`.

    Raises UsageError unless all were tested on the same clips of one data set.
    """
    runs = list(dict.fromkeys(ref.run.folder for ref in refs))
    rows: dict[tuple[str, str], PageRow] = {}
    for ref in refs:
        order = match_test_clips(refs[0].run, ref.run)
        for row, heads in ref.run.heads.items():
            if ref.row in (None, row):
                ordered = [_reordered(result, order) for result in heads]
                rows.setdefault((str(ref.run.folder), row), PageRow(row, ref.run, ordered))
    names = _names(list(rows), len(runs))
    page_rows = tuple(replace(row, name=name) for row, name in zip(rows.values(), names, strict=True))
    run_by_folder = {row.run.folder: row.run for row in reversed(page_rows)}
    merged = replace(refs[0].run, heads={row.name: row.heads for row in page_rows})
    summaries = tuple(
        replace(summary, label=row.name) for summary, row in zip(summarise(merged), page_rows, strict=True)
    )
    return PageRows(tuple(run_by_folder[folder] for folder in runs), page_rows, summaries)


def _names(places: Sequence[tuple[str, str]], runs: int) -> list[str]:
    counts = Counter(row for _, row in places)
    short = {folder: folder.rstrip("/").rpartition("/")[2] or folder for folder, _ in places}
    if len(set(short.values())) < runs:
        short = {folder: folder for folder in short}
    return [f"{short[folder]}: {row}" if counts[row] > 1 else row for folder, row in places]


def _reordered(result: SeedResult, order: NDArray[np.int64]) -> SeedResult:
    if np.array_equal(order, np.arange(len(order))):
        return result
    return replace(
        result,
        clip_ids=[result.clip_ids[number] for number in order.tolist()],
        truth=tuple(truth[order] for truth in result.truth),
        logits=result.logits[order],
    )
