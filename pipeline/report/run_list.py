"""All runs in a folder at one glance."""

from pathlib import Path
from typing import Any

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.pipeline.report.finished_tables import described_in_a_line, is_table
from avfuse.pipeline.report.results_table import measure_words
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.runs.run_folder import read_description, seeds_of_heads


def list_runs(folder: Path) -> list[str]:
    """A line per run and table, by folder: data set, heads or rows, seeds, the best of them, when it was made."""
    places = sorted(path for path in folder.glob("*/*") if is_table(path) or (path / "run.json").is_file())
    return [_line(place) for place in places]


def _line(folder: Path) -> str:
    try:
        if is_table(folder):
            return f"{folder}: {described_in_a_line(folder)}"
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
