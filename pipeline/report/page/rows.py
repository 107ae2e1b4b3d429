"""What a page shows: rows of one run or of several, over the same test clips."""

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
    """A row of a run by its name on the page. `heads`, one a seed, have the order of clips of the page's first run."""

    name: str
    run: Run
    heads: list[SeedResult]


@dataclass(frozen=True)
class PageRows:
    """Rows of runs of one data set. `rows` go with `summaries`, which are called as they are."""

    runs: tuple[Run, ...]
    rows: tuple[PageRow, ...]
    summaries: tuple[Row, ...]

    @property
    def first(self) -> SeedResult:
        """For the clips that all have, and their truth."""
        return self.rows[0].heads[0]

    @property
    def targets(self) -> Targets:
        return self.runs[0].targets

    @property
    def merged(self) -> Run:
        """All rows as those of one run, by their names."""
        return replace(self.runs[0], heads={row.name: row.heads for row in self.rows})

    @property
    def untrained(self) -> list[str]:
        return sorted({name for run in self.runs for name in run.described["untrained"]})

    @property
    def shuffled(self) -> list[str]:
        """The folders of control runs."""
        return [str(run.folder) for run in self.runs if run.described["training"]["shuffle_labels"]]

    def row(self, name: str) -> PageRow:
        return next(row for row in self.rows if row.name == name)


def merge(refs: Sequence[RunRef]) -> PageRows:
    """Rows of all runs, in their order; of several runs a row that others have too is called after its run as well.

    Raises UsageError unless all are tested on the same clips of one data set.
    """
    runs = list(dict.fromkeys(ref.run.folder for ref in refs))
    rows: dict[tuple[str, str], PageRow] = {}
    for ref in refs:
        order = match_test_clips(refs[0].run, ref.run)
        for row, heads in ref.run.heads.items():
            if ref.row in (None, row):
                ordered = [_reordered(one, order) for one in heads]
                rows.setdefault((str(ref.run.folder), row), PageRow(row, ref.run, ordered))
    names = _names(list(rows), len(runs))
    shown = tuple(replace(each, name=name) for each, name in zip(rows.values(), names, strict=True))
    first_of = {each.run.folder: each.run for each in reversed(shown)}
    merged = replace(refs[0].run, heads={each.name: each.heads for each in shown})
    summaries = tuple(replace(row, label=each.name) for row, each in zip(summarise(merged), shown, strict=True))
    return PageRows(tuple(first_of[folder] for folder in runs), shown, summaries)


def _names(places: Sequence[tuple[str, str]], runs: int) -> list[str]:
    often = Counter(row for _, row in places)
    short = {folder: folder.rstrip("/").rpartition("/")[2] or folder for folder, _ in places}
    if len(set(short.values())) < runs:
        short = {folder: folder for folder in short}
    return [f"{short[folder]}: {row}" if often[row] > 1 else row for folder, row in places]


def _reordered(one: SeedResult, order: NDArray[np.int64]) -> SeedResult:
    if np.array_equal(order, np.arange(len(order))):
        return one
    return replace(
        one,
        clip_ids=[one.clip_ids[number] for number in order.tolist()],
        truth=tuple(truth[order] for truth in one.truth),
        logits=one.logits[order],
    )
