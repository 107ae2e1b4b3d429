"""The page of a paper's table, from the files that `avfuse ablate` wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.pipeline.report.page import charts, provenance
from avfuse.pipeline.report.page import summary as words
from avfuse.pipeline.report.page.colours import row_styles
from avfuse.pipeline.report.page.document import render
from avfuse.pipeline.report.page.tables import Cell, PageTable, cell
from avfuse.pipeline.report.run_reference import TABLE_CSV, TABLE_CURVES, read_table

_TEXTS = ("published", "chosen", "flags")
"""Prefixes of the headings of text columns."""


def write_table_page(folder: Path, target: Path) -> Path:
    """Write a table's page: published numbers, scores, curves, notes and provenance. Raises UsageError for one of an
    earlier version."""
    content = read_table(folder)
    if "page" not in content:
        raise UsageError(
            f"{folder} holds a table of an earlier version of avfuse, without the data of a page: make it again "
            "(avfuse ablate; what is trained is read back)"
        )
    page, frame = content["page"], pd.read_csv(folder / TABLE_CSV, keep_default_na=False, na_values=[""])
    names = _names(frame)
    scored = frame[frame["tuned"].notna()]
    styles = row_styles([names[row] for row in scored["id"]])
    curves = _curves(folder, names)
    bars = charts.score_bars(
        [
            charts.ScoreBar(names[row.id], row.tuned, row.tuned_low, row.tuned_high)  # type: ignore[attr-defined]
            for row in scored.itertuples()
        ],
        styles,
        page["measure"],
        page["chance"],
        f"{content['table']}-scores",
    )
    figures = {"scores": bars.described()}
    drawn = charts.learning_curves(curves, styles, page["measure"])
    figures |= {f"curves-{kind}": chart.described() for kind, chart in drawn.items()}
    shown_rows = [{"name": name, "colour": look.colour, "seeds": 0} for name, look in styles.items()]
    html = render(
        "table.html.j2",
        {
            **_context(content, styles),
            "has_curves": bool(drawn),
            "csv": frame.round(4).to_csv(index=False),
        },
        {"page": {"rows": shown_rows, "targets": [], "confusions": [], "gains": None}, "figures": figures},
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")
    return target


def _context(content: Mapping[str, Any], styles: Mapping[str, Any]) -> dict[str, Any]:
    page, name = content["page"], content["table"]
    colours = {label: style.colour for label, style in styles.items()}
    return {
        "title": f"{page['title']} on {content['dataset']}",
        "heading": page["title"],
        "kind": f"Table {name}, backbones {content['backbones']}",
        "paper": page["paper"],
        "dataset": content["dataset"],
        "clips": page["clips"],
        "classes": page["classes"],
        "seeds": page["seeds"],
        "created": content["created"],
        "untrained": page["untrained"],
        "shuffled": [],
        "summary": [content["notes"][0]],
        "notes": content["notes"][1:],
        "measure": page["measure"],
        "results": _results(page, name, colours),
        "more": [_class_table(table, name, number) for number, table in enumerate(page["more"])],
        "features": provenance.feature_table(page["features"], f"{name}-features"),
        "settings": provenance.settings_table(
            [
                (row, facts["settings"], {"head": facts["head"], "folder": facts["folder"]})
                for row, facts in content["rows"].items()
            ],
            f"{name}-settings",
        ),
        "facts": provenance.facts(content),
    }


def _results(page: Mapping[str, Any], name: str, colours: Mapping[str, str]) -> PageTable:
    """The results table; sections become part of the rows' names, as sorting would separate headings from rows."""
    headings, rows = list(page["headings"]), []
    sections = any(line["section"] for line in page["lines"])
    for line in page["lines"]:
        label, *others = line["cells"]
        full = f"{line['section']}: {label}" if line["section"] else label
        rows.append([Cell(full if sections else label), *map(cell, others)])
    texts = frozenset(number for number, heading in enumerate(headings) if heading.startswith(_TEXTS))
    meanings = {heading: words.MEANINGS[heading] for heading in headings if heading in words.MEANINGS}
    for heading in headings:
        if heading.startswith("published"):
            meanings[heading] = "The number that the paper printed, on its data set."
        if heading.endswith("'s settings"):
            meanings[heading] = (
                "Score with the table's settings, and its 95 % interval in brackets; for a paper's row without flags, "
                "whether the published number lies in the interval."
            )
    return PageTable("results", page["title"], headings, rows, name, meanings, texts, colours)


def _class_table(table: Mapping[str, Any], name: str, number: int) -> PageTable:
    rows = [[Cell(row[0]), *map(cell, row[1:])] for row in table["rows"]]
    return PageTable(f"more-{number}", table["caption"], table["headings"], rows, f"{name}-{number}", {})


def _names(frame: pd.DataFrame) -> dict[str, str]:
    """Names of rows by id, with their sections."""
    return {
        row.id: f"{row.section}: {row.label}" if isinstance(row.section, str) and row.section else row.label  # type: ignore[attr-defined,misc]
        for row in frame.itertuples()
    }


def _curves(folder: Path, names: Mapping[str, str]) -> dict[str, list[pd.DataFrame]]:
    """Learning curves by row, one frame per seed; none where the table has no curves."""
    if not (folder / TABLE_CURVES).is_file():
        return {}
    curves = pd.read_csv(folder / TABLE_CURVES)
    return {
        names[str(row)]: [curve for _, curve in of_row.groupby("seed")]
        for row, of_row in curves.groupby("row", sort=False)
    }
