"""Results of a table: scores with intervals, tested differences, and published numbers beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.manifests import Manifest
from avfuse.pipeline.experiments.roles import feature_marks, is_substitute
from avfuse.pipeline.experiments.rows import TrainedRow
from avfuse.pipeline.experiments.schema import Backbones, ExperimentTable, TableRow
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.metrics import per_class
from avfuse.stages.fuse.evaluation.statistics import PairedTest, few_groups_warning, holm, interval, paired_test
from avfuse.stages.fuse.evaluation.subsets import participants, subset_accuracies, subsets
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult
from avfuse.stages.fuse.runs.summary import chance, correct_matrix

_POWER_80 = 2.8
"""Standard errors of a difference that a test at the 5 % level finds with a power of 80 %."""


@dataclass(frozen=True)
class Score:
    """A mean over seeds and clips, as shares of 1."""

    mean: float
    low: float  # of the 95 % interval
    high: float
    spread: float  # standard deviation over seeds; NaN for one seed


@dataclass(frozen=True)
class ResultLine:
    """A row of the table with its results."""

    row: TableRow
    published: Mapping[str, float]
    missing: str = ""  # why the row has no score
    own: Score | None = None  # with the paper's settings
    tuned: Score | None = None  # with the settings that validation chose
    chosen: str = ""  # these settings
    baseline: str = ""  # label of the row that this one is tested against
    difference: PairedTest | None = None  # of the tuned heads, from the baseline's
    p: float | None = None  # of no difference, adjusted for all tests of the table
    measures: Mapping[str, float] = field(default_factory=dict)  # shares of 1; nll in nats, gmacs, peak_memory_mib
    classes: Mapping[str, float] = field(default_factory=dict)  # accuracy by class
    parameters: int | None = None
    flags: str = ""  # U untrained, S substitute networks, P another protocol
    verdict: str = ""  # whether the published score agrees with ours


@dataclass(frozen=True)
class TableResult:
    """A table with its results."""

    table: ExperimentTable
    backbones: Backbones
    described: Mapping[str, Any]
    trained: Sequence[TrainedRow]
    lines: Sequence[ResultLine]
    published_on: str  # data set of the published numbers; empty for a user's own table
    measures: tuple[str, ...]  # of `ResultLine.measures`, those that are shown; the first is the score
    notes: tuple[str, ...]


def collect_results(
    table: ExperimentTable,
    backbones: Backbones,
    trained: Sequence[TrainedRow],
    not_run: Mapping[str, str],
    manifest: Manifest,
    described: Mapping[str, Any],
    data_set: str | None,
    changed: Sequence[str],
) -> TableResult:
    """Scores, tests and notes of a table's trained rows.

    Args:
        trained: rows with results, at least one.
        not_run: the reasons why other rows were not run, by id.
        data_set: the papers' data set that this is, if any.
        changed: deviations from the paper's protocol.
    """
    run = trained[0].run
    published_on = data_set if data_set in table.data else next(iter(table.data), "")
    by_id = {result.row.id: result for result in trained}
    tests = {
        result.row.id: paired_test(
            correct_matrix(run.targets, result.tuned),
            correct_matrix(run.targets, by_id[result.row.baseline].tuned),
            run.groups,
        )
        for result in trained
        if result.row.baseline in by_id
    }
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    parts = _subsets(run, manifest)
    labels = {row.id: row.label for row in table.rows}
    lines = []
    for row in table.rows:
        published = next((own for name, own in row.published.items() if name == published_on), {})
        if row.id not in by_id:
            lines.append(ResultLine(row, published, missing=not_run.get(row.id, "published only")))
            continue
        result = by_id[row.id]
        flags = _flags(table, result, backbones, changed)
        lines.append(
            ResultLine(
                row=row,
                published=published,
                own=_score(run, result.own),
                tuned=_score(run, result.tuned),
                chosen=result.chosen,
                baseline=labels[row.baseline] if row.baseline in by_id else "",  # type: ignore[index]
                difference=tests.get(row.id),
                p=adjusted.get(row.id),
                measures=_measures(run.targets, result.tuned, parts),
                classes=_classes(run, result.tuned, table.classes),
                parameters=result.tuned[0].described["cost"]["parameters"],
                flags=flags,
                verdict="" if flags else _verdict(run, result.own, published),
            )
        )
    return TableResult(
        table, backbones, described, trained, lines, published_on, _shown(run.targets, lines, table),
        tuple(_notes(table, backbones, trained, lines, changed)),
    )  # fmt: skip


def as_frame(result: TableResult) -> pd.DataFrame:
    """One line per row; scores as shares of 1, published numbers as printed."""
    return pd.DataFrame([_flat(line, result) for line in result.lines])


def _flat(line: ResultLine, result: TableResult) -> dict[str, Any]:
    flat: dict[str, Any] = {"id": line.row.id, "section": line.row.section, "label": line.row.label}
    flat |= {"head": line.row.head or "", "missing": line.missing}
    flat |= {f"published_{name}": value for name, value in line.published.items()}
    for name, score in (("own", line.own), ("tuned", line.tuned)):
        if score is not None:
            flat |= {name: score.mean, f"{name}_low": score.low, f"{name}_high": score.high}
            flat |= {f"{name}_seed_sd": score.spread}
    flat |= {"chosen": line.chosen, "baseline": line.baseline}
    if line.difference is not None:
        test = line.difference
        flat |= {"difference": test.difference, "difference_low": test.low, "difference_high": test.high}
        flat |= {"p": test.p, "p_holm": line.p}
    flat |= {**line.measures} | {f"class:{name}": value for name, value in line.classes.items()}
    return flat | {"parameters": line.parameters, "flags": line.flags, "verdict": line.verdict}


def _score(run: Run, runs: list[SeedResult]) -> Score:
    right = correct_matrix(run.targets, runs)
    span = interval(right, run.groups)
    of_seeds = right.mean(axis=1)
    return Score(span.mean, span.low, span.high, float(of_seeds.std(ddof=1)) if len(runs) > 1 else float("nan"))


def _measures(targets: Targets, runs: list[SeedResult], parts: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Means over seeds of the measures that all seeds have."""
    seeds = [
        {
            **result.described["metrics"],
            **subset_accuracies(targets, result.logits, result.truth, parts),
            **_costs(result.described["cost"]),
        }
        for result in runs
    ]
    return {
        name: float(np.mean([seed[name] for seed in seeds])) for name in seeds[0] if all(name in seed for seed in seeds)
    }


def _costs(cost: Mapping[str, Any]) -> dict[str, float]:
    known = {"seconds_per_epoch": cost["seconds_per_epoch"], "peak_memory_mib": cost["peak_memory_mib"]}
    if cost["macs"] is not None and cost["backbone_macs"] is not None:
        known["gmacs"] = (cost["macs"] + cost["backbone_macs"]) / 1e9
    return {name: value for name, value in known.items() if value is not None}


def _subsets(run: Run, manifest: Manifest) -> dict[str, NDArray[np.bool_]]:
    """Subsets of test clips, for EPIC-KITCHENS-100 and data sets of its form; classes of others have no tail."""
    if participants(manifest.table) is None:
        return {}
    rows = manifest.table.set_index("clip_id", drop=False)
    test = rows.loc[next(iter(run.heads.values()))[0].clip_ids]
    fitted = rows[rows["split"].isin(("train", "val"))]
    return subsets(run.targets, fitted, test)


def _classes(run: Run, runs: list[SeedResult], names: Sequence[str]) -> dict[str, float]:
    """Mean accuracy over seeds of the classes that a table names; empty for several targets."""
    if not names or len(run.targets) > 1:
        return {}
    (target,) = run.targets
    tables = [per_class(result.logits, result.truth[0], target.classes)["accuracy"] for result in runs]
    means = pd.concat(tables, axis=1).mean(axis=1)
    return {name: float(means[name]) for name in names if name in means.index}


def _flags(table: ExperimentTable, trained: TrainedRow, backbones: Backbones, changed: Sequence[str]) -> str:
    flags = {"U": bool(trained.untrained)}
    if table.data:
        flags |= {"S": is_substitute(backbones, trained.row), "P": bool(changed)}
    return "".join(name for name, holds in flags.items() if holds)


def _verdict(run: Run, own: list[SeedResult], published: Mapping[str, float]) -> str:
    """Whether the published score lies in the interval of ours with the paper's settings, or where it lies."""
    number = published.get(run.targets.measure)
    if number is None:
        return ""
    score = _score(run, own)
    if score.low <= number / 100 <= score.high:
        return "agrees"
    return "above" if score.low > number / 100 else "below"


def _shown(targets: Targets, lines: Sequence[ResultLine], table: ExperimentTable) -> tuple[str, ...]:
    """Measures that rows have, the score first; peak memory only where the table asks for it."""
    several = [f"{target.name}_top1" for target in targets] if len(targets) > 1 else []
    candidates = [targets.measure, "top5", f"{targets.joint}_top5", *several, "macro", "macro_f1", "map", "nll", "ece"]
    subset = [f"{part}_{name}" for part in ("unseen", "tail") for name in (targets.measure, *several)]
    there = {name for line in lines for name in line.measures}
    costs = ["gmacs", *(name for name in ("peak_memory_mib",) if name in table.measures)]
    return tuple(name for name in dict.fromkeys([*candidates, *subset, *costs]) if name in there)


def _notes(
    table: ExperimentTable,
    backbones: Backbones,
    trained: Sequence[TrainedRow],
    lines: Sequence[ResultLine],
    changed: Sequence[str],
) -> list[str]:
    """Notes on the numbers, the table's own last."""
    run = trained[0].run
    seeds = len(trained[0].tuned)
    notes = [_resolution(run, lines), f"Chance is {100 * chance(run):.1f} %."]
    notes.append(
        "Intervals: 95 %, over new seeds and new groups of test clips."
        if seeds > 1
        else "With one seed, how much seeds vary is unknown: intervals are over groups of test clips alone."
    )
    if (few := few_groups_warning(run.groups)) is not None:
        notes.append(few)
    who = "the paper" if table.data else "the table"
    notes.append(
        f"Difference: tuned heads, from the row that {who} compares with; paired t test over seeds and groups, p "
        "adjusted by Holm for all tests of the table."
    )
    if any(line.chosen for line in lines):
        notes.append("Tuned: learning rate and weight decay from the same grid for every row, chosen on validation.")
    if untrained := sorted({name for row in trained for name in row.untrained}):
        notes.append(f"U: UNTRAINED weights in {', '.join(untrained)}; these numbers mean nothing.")
    if table.data:
        notes += _notes_of_paper(backbones, trained, changed)
    elif changed:
        notes.append(f"Changed from the table: {'; '.join(changed)}.")
    notes += [mark for row in trained for mark in feature_marks(backbones, row.row)]
    return list(dict.fromkeys([*notes, *table.notes, *(line.row.note for line in lines if line.row.note)]))


def _notes_of_paper(backbones: Backbones, trained: Sequence[TrainedRow], changed: Sequence[str]) -> list[str]:
    """Differences from the paper: substitute networks, and changes of the protocol."""
    notes = []
    substitutes = [row for row in trained if is_substitute(backbones, row.row)]
    if substitutes:
        notes.append(f"S: other networks than the paper's ({backbones.name}: {backbones.summary.strip()})")
    if changed:
        notes.append(f"P: another protocol than the paper's ({'; '.join(changed)}).")
    if changed or len(substitutes) == len(trained):
        notes.append("Published numbers are for orientation: they are neither confirmed nor contradicted here.")
    elif substitutes:
        notes.append(
            "Beside rows marked S published numbers are for orientation: "
            "they are neither confirmed nor contradicted here."
        )
    return notes


def _resolution(run: Run, lines: Sequence[ResultLine]) -> str:
    """The uncertainty of scores, and the smallest difference that these clips can show."""
    clips, groups = len(run.groups), len(set(run.groups))
    halves = [(line.tuned.high - line.tuned.low) / 2 for line in lines if line.tuned is not None]
    sentence = (
        f"{clips} test clips in {groups} groups: a score is uncertain by about {100 * np.median(halves):.0f} points"
    )
    tests = [line.difference for line in lines if line.difference is not None]
    if spans := [(test.high - test.low) / 2 for test in tests if test.high > test.low]:
        least = np.median(spans) / 1.96 * _POWER_80
        sentence += f", and a difference below about {100 * least:.0f} points cannot be told from chance here"
    return f"{sentence}."
