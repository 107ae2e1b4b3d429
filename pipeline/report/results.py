"""Results of runs as text: the table of a run with its headings, and a line for every run of a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.pipeline.report.run_reference import TABLE_CSV, is_table, read_table
from avfuse.pipeline.report.text_tables import aligned
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.runs.run_folder import Run, RunFolder
from avfuse.stages.fuse.runs.summary import Row, chance, notes, selected_rows

_COSTS = ("parameters", "GMACs", "backbone GMACs", "s/epoch", "s/seed")
_LISTED = 20
"""Number of excluded clips that are named."""


def measure_words(name: str) -> str:
    """Name of a measure in tables and on axes."""
    return {"top1": "top-1", "hit1": "hit@1", "map": "mAP", "all_top1": "all targets"}.get(
        name, name.removesuffix("_top1")
    )


def score_words(targets: Targets) -> str:
    """Words after `NN %` in a sentence; plain accuracy has none."""
    if len(targets) > 1:
        return " action accuracy" if targets.joint == "action" else " accuracy in all targets at once"
    return " hit@1" if targets[0].several else ""


def headings(targets: Targets) -> tuple[str, ...]:
    """Headings of the table's columns."""
    score = f"{measure_words(targets.measure)} %"
    more = (heading for heading, _ in _more_measures(targets))
    return ("head", "seeds", "clips", score, "95 % interval", "seed sd", *more, *_COSTS)


def cells(targets: Targets, row: Row) -> tuple[str, ...]:
    """A row's cells as text, in the order of `headings`."""
    return (
        row.label,
        str(row.seeds),
        str(row.n_test),
        f"{100 * row.score:.1f}",
        f"{100 * row.low:.1f} - {100 * row.high:.1f}",
        f"{100 * row.seed_spread:.1f}" if row.seeds > 1 else "-",
        *(
            f"{row.measures[name]:.2f}" if name == "nll" else f"{100 * row.measures[name]:.1f}"
            for _, name in _more_measures(targets)
        ),
        f"{row.parameters:,}",
        _giga(row.macs),
        _giga(row.backbone_macs),
        "-" if row.seconds_per_epoch is None else f"{row.seconds_per_epoch:.2f}",
        f"{row.seconds:.1f}",
    )


def class_words(targets: Targets) -> str:
    """`12 classes`, or `97 verb and 300 noun classes`."""
    counts = [
        f"{len(target.classes)} {target.name}" if len(targets) > 1 else str(len(target.classes)) for target in targets
    ]
    return f"{' and '.join([', '.join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)} classes"


def chance_words(run: Run) -> str:
    """Chance in per cent, with at least one significant digit."""
    percent = 100 * chance(run)
    return f"{percent:.1f}" if percent >= 0.1 else f"{percent:.1g}"


def print_table(run: Run, summary: list[Row]) -> str:
    """The table of a run with its title and notes."""
    columns = list(headings(run.targets))
    table = pd.DataFrame([cells(run.targets, row) for row in summary], columns=columns)
    clips = run.described["clips"]
    title = (
        f"{run.described['dataset']}: {clips['train']} train, {clips['validation']} validation, {clips['test']} test "
        f"clips, {class_words(run.targets)} (chance {chance_words(run)} %)"
    )
    sweeps = [
        f"Of {winner.rows} rows of {winner.head}, validation prefers {winner.values}: {100 * winner.validation:.1f} % "
        f"{measure_words(run.targets.selection)} there, {100 * winner.test:.1f} % on test."
        for winner in selected_rows(run)
    ]
    left_out = [f"Left out, with no usable feature: {_listed(list(clips['excluded']))}."] if clips["excluded"] else []
    return "\n".join([title, "", aligned(table, ("head",)), "", *sweeps, *left_out, *notes(run)])


def list_runs(folder: Path) -> list[str]:
    """A line per run and table, sorted by folder: data set, heads or rows, seeds, the best row, date."""
    places = sorted(path for path in folder.glob("*/*") if is_table(path) or RunFolder(path).exists)
    return [_line(place) for place in places]


def _more_measures(targets: Targets) -> list[tuple[str, str]]:
    """Headings and names of the measures other than the score."""
    if len(targets) == 1:
        return _of_one_target(targets[0])
    of_each = [(f"{target.name} %", f"{target.name}_{target.measure}") for target in targets]
    return [("top-5 %", f"{targets.joint}_top5"), *of_each] if targets.has_joint_top5 else of_each


def _of_one_target(target: LearnedTarget) -> list[tuple[str, str]]:
    if target.several:
        return [("mAP %", "map"), ("F1 %", "f1"), ("subset %", "subset"), ("lwlrap %", "lwlrap")]
    return [("macro %", "macro"), ("nll", "nll")]


def _giga(count: float | None) -> str:
    """Format in units of 10^9, with three significant digits."""
    return "-" if count is None else np.format_float_positional(count / 1e9, precision=3, fractional=False, trim="-")


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more (run.json has them)" if more > 0 else "")


def _line(folder: Path) -> str:
    try:
        if is_table(folder):
            return f"{folder}: {_table_line(folder)}"
        metadata, seeds = RunFolder(folder).read_metadata(), RunFolder(folder).count_seeds()
    except UsageError as error:
        return str(error)
    counts = sorted(set(seeds.values()))
    trained = f"{'-'.join(str(count) for count in counts[:1] + counts[1:][-1:])} seeds" if counts else "nothing trained"
    parts = [metadata["dataset"], ", ".join(seeds), trained, _best(folder, metadata), metadata["created"]]
    return f"{folder}: {' | '.join(part for part in parts if part)}"


def _best(folder: Path, metadata: dict[str, Any]) -> str:
    """The best row by its mean over seeds; empty before the first training has finished."""
    results = RunFolder(folder).results_file
    if not results.is_file():
        return ""
    measure = Targets.from_dicts(metadata["targets"]).measure
    means = pd.read_csv(results).groupby("head")[measure].mean()
    return f"best: {means.idxmax()} {100 * means.max():.1f} % {measure_words(measure)}"


def _table_line(folder: Path) -> str:
    """Data set, table, rows, seeds, the best row, date."""
    table = read_table(folder)
    rows = pd.read_csv(folder / TABLE_CSV).dropna(subset="tuned")
    best = rows.loc[rows["tuned"].idxmax()]
    seeds = max(row["seeds"] for row in table["rows"].values())
    parts = [
        table["dataset"],
        f"{table['table']}, {table['backbones']}",
        f"{len(rows)} rows, {seeds} seeds",
        f"best: {best['id']} {100 * best['tuned']:.1f} %",
        table["created"],
    ]
    return " | ".join(parts)
