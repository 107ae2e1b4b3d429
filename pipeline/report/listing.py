"""All runs in a folder at one glance."""

from pathlib import Path
from typing import Any

import pandas as pd

from features.errors import UsageError
from pipeline.report.table import measure_words
from stages.fuse.runs import read_description, seeds_of_heads
from stages.fuse.targets import Targets


def list_runs(folder: Path) -> list[str]:
    """A line per run, by folder: data set, heads, seeds, the best head, when it was made."""
    return [_line(path.parent) for path in sorted(folder.glob("*/*/run.json"))]


def _line(folder: Path) -> str:
    try:
        described, seeds = read_description(folder), seeds_of_heads(folder)
    except UsageError as error:
        return str(error)
    counts = sorted(set(seeds.values()))
    trained = f"{'-'.join(str(count) for count in counts[:1] + counts[1:][-1:])} seeds" if counts else "nothing trained"
    parts = [described["dataset"], ", ".join(seeds), trained, _best(folder, described), described["created"]]
    return f"{folder}: {' | '.join(part for part in parts if part)}"


def _best(folder: Path, described: dict[str, Any]) -> str:
    """The best head by the mean over its seeds, none as long as the first training is not through."""
    results = folder / "results.csv"
    if not results.is_file():
        return ""
    measure = Targets.from_described(described["targets"]).measure
    means = pd.read_csv(results).groupby("head")[measure].mean()
    return f"best: {means.idxmax()} {100 * means.max():.1f} % {measure_words(measure)}"
