"""Comparison of two runs: settings, features and versions that differ, and paired tests between their rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed
from avfuse.pipeline.report.analyses import ONE_SEED, warnings_of
from avfuse.pipeline.report.results import measure_words
from avfuse.pipeline.report.run_reference import RunRef
from avfuse.pipeline.report.text_tables import aligned, p_value, percent, points, points_span
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.statistics import few_groups_warning, holm, interval, paired_test
from avfuse.stages.fuse.runs.experiment import FEATURES
from avfuse.stages.fuse.runs.restore import match_test_clips
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult
from avfuse.stages.fuse.runs.summary import correct_matrix

_ABSENT = "-"
_Difference = tuple[str, str, str]

_NEW_PLACE = "avfuse.pipeline.report.run_reference"
if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Side": f"{_NEW_PLACE}.RunRef", "read_side": f"{_NEW_PLACE}.read_run_ref"})


@dataclass(frozen=True)
class Comparison:
    """Two runs compared. Scores are shares of 1; a difference is B minus A."""

    a: RunRef
    b: RunRef
    differing: pd.DataFrame
    """One line per fact or setting that differs: `what`, `a`, `b`, as text."""
    accuracies: pd.DataFrame
    """One line per pair of rows: `row`; `a` and `b`, scores by `Targets.measure`, with 95 % intervals `a_low`,
    `a_high`, `b_low`, `b_high`; `difference`, `low`, `high` and `p` of `paired_test`; `holm`, p adjusted for all
    lines."""
    measures: pd.DataFrame
    """One line per pair of rows and measure of `metrics.evaluate_metrics` (nll in nats): `row`, `measure`, `a`, `b`,
    `difference`."""
    notes: list[str]
    """Caveats, and rows or seeds that are not compared."""


@dataclass(frozen=True)
class _RowPair:
    """Two rows with the heads of their common seeds."""

    name: str
    a: list[SeedResult]
    b: list[SeedResult]
    seeds: tuple[list[int], list[int]]  # all seeds of A's row and of B's


def compare(a: RunRef, b: RunRef) -> Comparison:
    """Compare two rows, or all rows of the same name of two runs.

    Raises UsageError unless both have the same test clips and classes, and a row and a seed in common.
    """
    order = match_test_clips(a.run, b.run)
    pairs = [_pair(a.run, b.run, *rows) for rows in _rows(a, b)]
    accuracies = pd.DataFrame([_accuracies(a.run, b.run, pair, order) for pair in pairs])
    return Comparison(
        a,
        b,
        pd.DataFrame(_differing(a.run, b.run, pairs), columns=["what", "a", "b"]),
        accuracies.assign(holm=holm(accuracies["p"].tolist())),
        pd.DataFrame([line for pair in pairs for line in _measures(pair)]),
        _notes(a, b, pairs, order),
    )


def print_comparison(comparison: Comparison) -> str:
    """The comparison with its notes, ready to print."""
    return "\n".join(
        [
            f"A: {comparison.a.name}",
            f"B: {comparison.b.name}",
            "",
            _differing_table(comparison.differing)
            if len(comparison.differing)
            else "Nothing that they depend on differs.",
            "",
            _accuracy_table(comparison.accuracies, comparison.a.run.targets),
            "",
            _measure_table(comparison.measures, len(comparison.accuracies) > 1),
            "",
            *comparison.notes,
        ]
    )


def _rows(a: RunRef, b: RunRef) -> list[tuple[str, str]]:
    """Pairs of rows to compare."""
    if a.row is not None and b.row is not None:
        return [(a.row, b.row)]
    common = [row for row in a.run.heads if row in b.run.heads]
    if not common:
        whole = b if b.row is None else a
        raise UsageError(
            f"{a.name} and {b.name} have no row in common: name one of each, such as "
            f"{whole.run.folder}:{next(iter(whole.run.heads))} ({', '.join(whole.run.heads)})"
        )
    return [(row, row) for row in common]


def _pair(a: Run, b: Run, row_a: str, row_b: str) -> _RowPair:
    """Heads of the common seeds of two rows."""
    of_a, of_b = ({result.seed: result for result in run.heads[row]} for run, row in ((a, row_a), (b, row_b)))
    common = sorted(of_a.keys() & of_b.keys())
    if not common:
        raise UsageError(f"{a.folder}:{row_a} and {b.folder}:{row_b} have no seed in common: train both with the same")
    name = row_a if row_a == row_b else f"{row_a} / {row_b}"
    return _RowPair(
        name, [of_a[seed] for seed in common], [of_b[seed] for seed in common], (sorted(of_a), sorted(of_b))
    )


def _accuracies(a: Run, b: Run, pair: _RowPair, order: NDArray[np.int64]) -> dict[str, Any]:
    """A line of `Comparison.accuracies`, without `holm`."""
    of_a, of_b = correct_matrix(a.targets, pair.a), correct_matrix(b.targets, pair.b)[:, order]
    span_a, span_b, test = interval(of_a, a.groups), interval(of_b, a.groups), paired_test(of_b, of_a, a.groups)
    return {
        "row": pair.name,
        "a": span_a.mean,
        "a_low": span_a.low,
        "a_high": span_a.high,
        "b": span_b.mean,
        "b_low": span_b.low,
        "b_high": span_b.high,
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "p": test.p,
    }


def _measures(pair: _RowPair) -> Iterator[dict[str, Any]]:
    """Lines of `Comparison.measures`, for measures that both rows have."""
    known = [name for name in pair.a[0].described["metrics"] if name != "n_test"]
    for name in known:
        if all(name in result.described["metrics"] for result in (*pair.a, *pair.b)):
            mean_a, mean_b = (
                float(np.mean([result.described["metrics"][name] for result in of])) for of in (pair.a, pair.b)
            )
            yield {"row": pair.name, "measure": name, "a": mean_a, "b": mean_b, "difference": mean_b - mean_a}


def _differing(a: Run, b: Run, pairs: Sequence[_RowPair]) -> list[_Difference]:
    """Lines of `Comparison.differing`. A difference that all rows share has one line."""
    of_rows: dict[_Difference, list[str]] = {}
    for pair in pairs:
        same_head = pair.a[0].head == pair.b[0].head
        facts = (_row_facts(of[0], seeds, same_head) for of, seeds in zip((pair.a, pair.b), pair.seeds, strict=True))
        for line in _unequal(*facts):
            of_rows.setdefault(line, []).append(pair.name)
    named = [
        (what if len(rows) == len(pairs) else f"{what} ({'; '.join(rows)})", in_a, in_b)
        for (what, in_a, in_b), rows in of_rows.items()
    ]
    return [*_unequal(_facts(a), _facts(b)), *_features(a, b), *named]


def _facts(run: Run) -> dict[str, str]:
    """Facts of a whole run."""
    metadata = run.described
    return {
        "data set": metadata["dataset"],
        "command": metadata["command"],
        **{f"{part} clips": str(metadata["clips"][part]) for part in ("train", "validation", "test", "unlabelled")},
        "left out": str(len(metadata["clips"]["excluded"])),
        "clips and features (hash)": metadata["data"],
        "groups of test clips": str(len(set(metadata["test_groups"]))),
        "shuffled labels": str(metadata["training"]["shuffle_labels"]),
        **{f"{name} (version)": version for name, version in metadata["software"].items()},
    }


def _row_facts(result: SeedResult, seeds: Sequence[int], one_by_one: bool) -> dict[str, str]:
    """Facts of a row. seeds: all its seeds. one_by_one: list options one by one, not in one line."""
    metadata = result.described
    swept = {f"{name} features of the row": value for name, value in metadata["swept"].items() if name in FEATURES}
    options = metadata["options"]
    together = {"options": ", ".join(f"{name}={value}" for name, value in options.items())}
    return {
        "head": result.head,
        "seeds": ", ".join(map(str, seeds)),
        **swept,
        **{name: str(value) for name, value in metadata["recipe"].items()},
        **({name: str(value) for name, value in options.items()} if one_by_one else together),
    }


def _features(a: Run, b: Run) -> Iterator[_Difference]:
    """Features that only one run has, and differences between features of the same name."""
    for modality in FEATURES:
        of_a, of_b = ({spec["name"]: spec for spec in run.described["features"][modality]} for run in (a, b))
        keys_a, keys_b = ({f"{name}@{spec['key']}": None for name, spec in of.items()} for of in (of_a, of_b))
        only_a, only_b = [key for key in keys_a if key not in keys_b], [key for key in keys_b if key not in keys_a]
        if only_a or only_b:
            yield (f"{modality} features", ", ".join(only_a) or _ABSENT, ", ".join(only_b) or _ABSENT)
        elif list(keys_a) != list(keys_b):
            yield (f"order of {modality} features", ", ".join(keys_a), ", ".join(keys_b))
        inside: dict[_Difference, list[str]] = {}
        for name in of_a.keys() & of_b.keys():
            for line in _unequal(_flat(of_a[name]), _flat(of_b[name])):
                inside.setdefault(line, []).append(name)
        for (what, in_a, in_b), names in inside.items():
            yield (f"{what} of {', '.join(sorted(names))}", in_a, in_b)


def _flat(spec: Mapping[str, Any]) -> dict[str, str]:
    """Nested values by dotted names."""
    own = {name: value for name, value in spec.items() if name != "key"}
    return {name: str(value) for name, value in pd.json_normalize(own).iloc[0].items()}


def _unequal(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[_Difference]:
    for name in {**a, **b}:
        if a.get(name) != b.get(name):
            yield (name, a.get(name, _ABSENT), b.get(name, _ABSENT))


def _notes(a: RunRef, b: RunRef, pairs: Sequence[_RowPair], order: NDArray[np.int64]) -> list[str]:
    notes = ["Intervals: 95 %, over new seeds and new groups of test clips. p: of no difference, over the same."]
    if len(pairs) > 1:
        notes.append(f"Holm: p adjusted for {len(pairs)} rows.")
    for side, other in ((a, b), (b, a)):
        if side.row is None and (alone := [row for row in side.run.heads if row not in other.run.heads]):
            notes.append(f"Only in {side.run.folder}: {', '.join(alone)}.")
    for pair in pairs:
        if pair.seeds[0] != pair.seeds[1]:
            notes.append(f"{pair.name}: compared by the {len(pair.a)} common seeds.")
    if any(len(pair.a) == 1 for pair in pairs):
        notes.append(ONE_SEED)
    if not np.array_equal(a.run.groups, b.run.groups[order]):
        notes.append("Test clips have other groups in B: the groups of A are used.")
    if (few := few_groups_warning(a.run.groups)) is not None:
        notes.append(few)
    for name, side in (("A", a), ("B", b)):
        notes += [f"{name}: {warning}" for warning in warnings_of(side.run.described)]
    return notes


def _differing_table(differing: pd.DataFrame) -> str:
    """Two lines per fact, as commands and lists of features are long."""
    lines = [
        line for what, in_a, in_b in differing.itertuples(index=False) for line in ((what, "A", in_a), ("", "B", in_b))
    ]
    return aligned(pd.DataFrame(lines, columns=["differs", "", " "]), ("differs", "", " "))


def _accuracy_table(accuracies: pd.DataFrame, targets: Targets) -> str:
    spans = {
        side: [
            f"{percent(low)} - {percent(high)}"
            for low, high in zip(accuracies[f"{side}_low"], accuracies[f"{side}_high"], strict=True)
        ]
        for side in ("a", "b")
    }
    columns = [
        *([("row", accuracies["row"])] if len(accuracies) > 1 else []),
        (f"A {measure_words(targets.measure)} %", accuracies["a"].map(percent)),
        ("95 % interval", spans["a"]),
        (f"B {measure_words(targets.measure)} %", accuracies["b"].map(percent)),
        ("95 % interval", spans["b"]),
        ("B - A", accuracies["difference"].map(points)),
        ("95 % interval", list(map(points_span, accuracies["low"], accuracies["high"]))),
        ("p", accuracies["p"].map(p_value)),
        *([("p (Holm)", accuracies["holm"].map(p_value))] if len(accuracies) > 1 else []),
    ]
    table = pd.DataFrame({number: list(cells) for number, (_, cells) in enumerate(columns)})
    return aligned(table.set_axis([name for name, _ in columns], axis=1), ("row",))


def _measure_table(measures: pd.DataFrame, several: bool) -> str:
    """Measures in per cent, nll in nats. several: with a column that names the row."""
    lines = []
    for line in measures.itertuples(index=False):
        if line.measure.endswith("nll"):
            cells = (f"{line.a:.2f}", f"{line.b:.2f}", f"{round(line.difference, 2) + 0.0:+.2f}")
        else:
            cells = (percent(line.a), percent(line.b), points(line.difference))
        lines.append((line.row, line.measure, *cells))
    table = pd.DataFrame(lines, columns=["row", "measure", "A", "B", "B - A"])
    return aligned(table if several else table.drop(columns="row"), ("row", "measure"))
