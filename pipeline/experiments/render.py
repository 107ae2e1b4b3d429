"""Results of a table as text, files and a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avfuse.pipeline.experiments.results import ResultLine, Score, TableResult, as_frame
from avfuse.pipeline.report.page import write_table_page
from avfuse.pipeline.report.results import class_words, measure_words
from avfuse.pipeline.report.run_reference import TABLE_CSV, TABLE_CURVES, TABLE_JSON
from avfuse.stages.fuse.evaluation.statistics import PairedTest
from avfuse.stages.fuse.runs.summary import chance

_PLAIN = {"nll": 2, "gmacs": 1, "peak_memory_mib": 0, "seconds_per_epoch": 2}
"""Decimals of measures that are not shares."""

_HEADINGS = {"gmacs": "GMACs", "peak_memory_mib": "peak MiB", "macro_f1": "macro F1", "nll": "nll", "ece": "ECE"}


def print_result(result: TableResult) -> str:
    """The table with its notes as text."""
    header, rows = headings(result), [(line, cells(line, result)) for line in result.lines]
    widths = [
        max(len(row[column]) for row in [header, *(cells_of_line for _, cells_of_line in rows)])
        for column in range(len(header))
    ]

    def laid_out(row: tuple[str, ...]) -> str:
        middle = (text.rjust(width) for text, width in zip(row[1:-1], widths[1:-1], strict=True))
        return "  ".join([row[0].ljust(widths[0]), *middle, row[-1]])

    lines = [laid_out(header), "-" * len(laid_out(header))]
    section = ""
    for line, row in rows:
        if line.row.section != section:
            section = line.row.section
            lines += ["", f"{section}:"] if section else [""]
        lines.append(laid_out(row))
    more = [f"\n{caption}\n{_plain_table(header, rows)}" for caption, header, rows in _more_tables(result)]
    return "\n".join([f"{result.table.title} ({result.described['dataset']})", "", *lines, *more, "", *result.notes])


def headings(result: TableResult) -> tuple[str, ...]:
    """Headings of the table's columns."""
    names = " / ".join(_heading(name) for name in _published_measures(result))
    published = [f"published {names} ({result.published_on})"] if names else []
    score, whose = _heading(result.measures[0]), "paper" if result.table.data else "table"
    more = [_heading(name) for name in result.measures[1:]]
    return (
        "row", *published, f"{score} %, {whose}'s settings", "tuned", "95 % interval", "seed sd", "difference",
        "p (Holm)", *more, "parameters", "chosen", "flags",
    )  # fmt: skip


def cells(line: ResultLine, result: TableResult) -> tuple[str, ...]:
    """A row's cells as text, in the order of `headings`."""
    names = _published_measures(result)
    published = [" / ".join(_number(line.published.get(name)) for name in names) if line.published else "-"]
    if line.own is None or line.tuned is None:
        empty = ["-"] * (len(headings(result)) - 2 - len(names[:1]))
        return (line.row.label, *(published if names else []), *empty, line.missing)
    return (
        line.row.label,
        *(published if names else []),
        f"{_span(line.own)}{f' {line.verdict}' if line.verdict else ''}",
        f"{100 * line.tuned.mean:.1f}",
        f"{100 * line.tuned.low:.1f} - {100 * line.tuned.high:.1f}",
        "-" if np.isnan(line.tuned.spread) else f"{100 * line.tuned.spread:.1f}",
        _difference(line.difference),
        "-" if line.p is None else _p(line.p),
        *(_measure(name, line.measures.get(name)) for name in result.measures[1:]),
        "-" if line.parameters is None else f"{line.parameters:,}",
        line.chosen or "-",
        line.flags or "-",
    )


def write_files(result: TableResult, folder: Path) -> list[Path]:
    """Write the table as CSV, Markdown, JSON with its provenance, and a page, with learning curves where it asks for
    them. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = as_frame(result)
    written = {TABLE_CSV: frame.to_csv(index=False), "table.md": _markdown(result), TABLE_JSON: _json(result)}
    if result.table.curves:
        written[TABLE_CURVES] = _curves(result).to_csv(index=False)
    for name, text in written.items():
        (folder / name).write_text(text)
    return [*(folder / name for name in written), write_table_page(folder, folder / "table.html")]


def _published_measures(result: TableResult) -> list[str]:
    """Published measures of whole rows, in the table's order."""
    names = {name for line in result.lines for name in line.published if not name.startswith("class:")}
    return [*(name for name in result.table.measures if name in names), *sorted(names - set(result.table.measures))]


def _more_tables(result: TableResult) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """A table of accuracy by class, where the table asks for some classes."""
    shown = result.table.classes
    if not any(line.classes or any(f"class:{name}" in line.published for name in shown) for line in result.lines):
        return []
    rows = []
    for line in result.lines:
        ours = line.classes
        own = {name: f"{100 * ours[name]:.1f}" if name in ours else "-" for name in shown}
        if result.table.data:
            own = {name: f"{_number(line.published.get(f'class:{name}'))} | {score}" for name, score in own.items()}
        rows.append((line.row.label, *own.values()))
    published = f"published on {result.published_on}, and " if result.table.data else ""
    return [(f"By class: {published}tuned here (%)", ("row", *shown), rows)]


def _plain_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return pd.DataFrame(rows, columns=list(header)).to_string(index=False)


def _heading(name: str) -> str:
    if name in _HEADINGS:
        return _HEADINGS[name]
    return measure_words(name).replace("top5", "top-5").replace("_", " ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _measure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.{_PLAIN[name]}f}" if name in _PLAIN else f"{100 * value:.1f}"


def _span(score: Score) -> str:
    return f"{100 * score.mean:.1f} ({100 * score.low:.1f} - {100 * score.high:.1f})"


def _difference(test: PairedTest | None) -> str:
    if test is None:
        return "-"
    if test.low == test.high == 0:
        return "0.0 (none is judged otherwise)"
    return f"{100 * test.difference:+.1f} ({100 * test.low:+.1f} to {100 * test.high:+.1f})"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _markdown(result: TableResult) -> str:
    header = headings(result)
    lines = [f"# {result.table.title} ({result.described['dataset']})", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells(line, result)) + " |" for line in result.lines
    ]
    for caption, names, rows in _more_tables(result):
        lines += ["", f"## {caption}", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"* {note}" for note in result.notes)]) + "\n"


def _json(result: TableResult) -> str:
    return json.dumps(_provenance(result) | {"page": _page_content(result)}, indent=2, default=str) + "\n"


def _page_content(result: TableResult) -> dict[str, Any]:
    """Content of the page other than the provenance."""
    run = result.trained[0].run
    specs = {
        spec["key"]: spec
        for row in result.trained
        for of_modality in row.run.described["features"].values()
        for spec in of_modality
    }
    return {
        "title": result.table.title,
        "paper": result.table.paper,
        "clips": run.described["clips"],
        "classes": class_words(run.targets),
        "chance": chance(run),
        "measure": measure_words(run.targets.measure),
        "seeds": len(result.trained[0].tuned),
        "untrained": sorted({name for row in result.trained for name in row.untrained}),
        "headings": headings(result),
        "lines": [{"section": line.row.section, "cells": cells(line, result)} for line in result.lines],
        "more": [
            {"caption": caption, "headings": names, "rows": rows} for caption, names, rows in _more_tables(result)
        ],
        "features": list(specs.values()),
    }


def _provenance(result: TableResult) -> dict[str, Any]:
    return {
        "table": result.table.name,
        "backbones": result.backbones.name,
        **result.described,
        "rows": {
            row.row.id: {
                "head": row.row.head,
                "settings": dict(row.settings),
                "features": {name: list(features) for name, features in row.features.items()},
                "chosen": row.chosen,
                "folder": str(row.run.folder),
                "tuned": row.tuned[0].row,
                "seeds": len(row.tuned),
            }
            for row in result.trained
        },
        "notes": list(result.notes),
    }


def _curves(result: TableResult) -> pd.DataFrame:
    """Learning curves with the paper's settings: one line per row, seed and epoch."""
    curves = [
        seed.curve.assign(row=row.row.id, label=row.row.label, seed=seed.seed)
        for row in result.trained
        for seed in row.own
    ]
    first = ["row", "label", "seed"]
    joined = pd.concat(curves, ignore_index=True)
    return joined[[*first, *(name for name in joined.columns if name not in first)]]
