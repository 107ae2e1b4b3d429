"""Published numbers in experiment files are those that the papers print."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from checkout import ROOT

from avfuse.pipeline.experiments.schema import (
    DATA_SETS,
    ExperimentTable,
    TableRow,
    load_table,
    table_names,
)

PAPERS = Path(os.environ.get("AVFUSE_PAPERS", ROOT.parent / "shared" / "papers"))
"""Texts of the papers are used in addition where they are."""
TITLES = {
    "MAiVAR": "MAiVAR: Multimodal Audio-Image and Video Action Recognizer",
    "MAiVAR-T": "MAiVAR-T: Multimodal Audio-image and Video Action Recognizer",
    "AVT": "Efficient Selective Audio Masked Multimodal Bottleneck Transformer",
    "MMT": "Efficient Multiscale Multimodal Bottleneck Transformer",
    "alpha-transformer": "Is Spatial-Temporal-Audio Attention All You Need",
}
"""How each paper's text begins, by what ExperimentTable.paper begins with."""
EPIC = {
    ("epic_kitchens_100", "verb_top1"): "Verb",
    ("epic_kitchens_100", "noun_top1"): "Noun",
    ("epic_kitchens_100", "action_top1"): "Action",
}
OF_CLASSES = {
    "people marching": "March",
    "waterfall burbling": "Waterfall",
    "playing tennis": "Tennis",
    "people belly laughing": "Laugh",
    "car engine starting": "Engi.",
}


@dataclass(frozen=True)
class Printed:
    """A table in a paper's text, whose cells stand between tabs. header: how its first line begins. name: what its
    lines are called, of their cells. row, column: of which a row of the file has its numbers, formats of the row; where
    `columns` has the data set and the measure, that column."""

    header: str
    name: str = "{0}"
    row: str = "{0.label}"
    column: str = ""
    columns: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def place(self, row: TableRow, data: str, measure: str) -> tuple[str, str]:
        column = self.columns[data, measure] if self.columns else self.column.format(row)
        return self.row.format(row), column


TOP1_TOP5 = {
    ("kinetics_sounds", "top1"): "Kinetics-Sounds Top-1",
    ("kinetics_sounds", "top5"): "Kinetics-Sounds Top-5",
    ("vggsound", "top1"): "VGGSound Top-1",
    ("vggsound", "top5"): "VGGSound Top-5",
}
PRINTED = {
    "maivar-table1": Printed("Method", column="Accuracy (%)"),
    "maivar-table2": Printed("Representation", column="{0.section}"),
    "avt-table1": Printed(
        "\tMarch", columns={("vggsound", f"class:{name}"): column for name, column in OF_CLASSES.items()}
    ),
    "avt-table2": Printed("Models\tModalities\tKinetics-Sounds", name="{0} ({1})", columns=TOP1_TOP5),
    "avt-table3": Printed(
        "Models\tModalities\tVerb",
        name="{0} ({1})",
        columns={**EPIC, ("epic_kitchens_100", "gmacs"): "FLOPs (G)"},
    ),
    "avt-table4": Printed(
        "Models\tKinetics-Sounds",
        columns={**TOP1_TOP5, **{key: f"Epic-Kitchens-100 {column}" for key, column in EPIC.items()}},
    ),
    "avt-table5": Printed("Models\tBaseline", row="{0.section}", column="{0.label}"),
    "alpha-table1": Printed(
        "Experiment Number",
        name="{1} {2}",
        columns={("vggsound", "top1"): "Test Accuracy", ("vggsound", "nll"): "Loss"},
    ),
}
IN_PROSE = {
    ("maivar-table2", "video"): r"TABLE II: .*video-only accuracy is ([\d.]+)%",
    ("maivar-t", "maivar-t"): r"Primary result: ([\d.]+)% accuracy on UCF101",
}
"""Numbers that stand in a sentence, by table and row."""
WITH_NUMBERS = {*PRINTED, *(name for name, _ in IN_PROSE)}
SPELT_OUT = {"Uniform.": "Uniformer"}


@cache
def text_of(paper: str) -> str:
    title = TITLES[paper.partition(" ")[0]]
    if not PAPERS.is_dir():
        pytest.skip(f"no texts of papers at {PAPERS} (set AVFUSE_PAPERS)")
    found = [text for path in sorted(PAPERS.glob("*.txt")) if title in (text := path.read_text())[:300]]
    assert len(found) == 1, f"{len(found)} texts in {PAPERS} are '{title}'"
    return found[0]


def plain(text: str) -> str:
    """Without mark-up, numbers of references and line breaks."""
    text = re.sub(r"</?\w+>|\[\d+\]|[$*]", "", text).replace(r"\times", "×")
    return re.sub(r" ?× ?", "×", re.sub(r"\s+", " ", text)).strip()


def number(cell: str) -> float | None:
    found = re.match(r"\d+(\.\d+)?", plain(cell))
    return float(found[0]) if found else None


@cache
def printed_numbers(name: str) -> dict[tuple[str, str], float]:
    """Every number of a printed table by row and column."""
    if name not in PRINTED:
        return {}
    printed, text = PRINTED[name], text_of(load_table(name).paper)
    start = re.search(rf"^{re.escape(printed.header)}", text, re.MULTILINE)
    assert start is not None, f"no table begins with '{printed.header}'"
    lines = [line.split("\t") for line in re.match(r"(?:.*\t.*\n)+", text[start.start() :])[0].splitlines()]
    first = next(row for row, cells in enumerate(lines) if any(number(cell) for cell in cells[1:]))
    columns = _columns(lines[:first])
    numbers = {}
    for cells in lines[first:]:
        name = printed.name.format(*map(plain, cells))
        for column, cell in list(zip(columns, cells, strict=True))[1:]:
            if (value := number(cell)) is not None:
                numbers[SPELT_OUT.get(name, name), column] = value
    return numbers


def _columns(header: list[list[str]]) -> list[str]:
    """Of one line, or of two of which the first names groups of columns."""
    upper, *lower = header
    if not lower:
        return [plain(cell) for cell in upper]
    groups = [plain(next((cell for cell in reversed(upper[: at + 1]) if cell), "")) for at in range(len(upper))]
    return [f"{group} {plain(cell)}".strip() for group, cell in zip(groups, lower[0], strict=True)]


def published(table: ExperimentTable) -> Iterator[tuple[TableRow, str, str, float]]:
    for row in table.rows:
        for data, measures in row.published.items():
            for measure, value in measures.items():
                yield row, data, measure, value


def disagreements(table: ExperimentTable) -> list[str]:
    """Where a file and the paper's text are not of one mind."""
    numbers, said, wrong = printed_numbers(table.name), set(), []
    for row, data, measure, value in published(table):
        if (table.name, row.id) in IN_PROSE:
            found = re.search(IN_PROSE[table.name, row.id], text_of(table.paper))
            stands = float(found[1]) if found else None
        else:
            place = PRINTED[table.name].place(row, data, measure)
            said.add(place)
            stands = numbers.get(place)
        if value != stands:
            wrong.append(f"{row.id}: {measure} on {data} is {value}, the paper prints {stands}")
    return wrong + [f"{' / '.join(place)} is printed, and not in the file" for place in sorted(numbers.keys() - said)]


@pytest.mark.parametrize("name", table_names())
def test_published_numbers_are_of_the_data_sets_and_measures_of_their_table(name: str) -> None:
    table = load_table(name)
    shown = {*table.measures, *(f"class:{each}" for each in table.classes)}
    assert set(table.data) <= set(DATA_SETS)
    for row, data, measure, _ in published(table):
        assert data in table.data, row.id
        assert measure in shown, row.id


@pytest.mark.parametrize(
    ("name", "row", "data", "measure", "value"),
    [
        ("maivar-table1", "maivar-ch", "ucf101", "top1", 87.91),
        ("maivar-table2", "mfcc-scaled-audio", "ucf101", "top1", 17.43),
        ("maivar-table2", "mfcc-scaled-fusion", "ucf101", "top1", 86.11),
        ("maivar-table2", "video", "ucf101", "top1", 75.67),
        ("maivar-t", "maivar-t", "ucf101", "top1", 91.2),
        ("avt-table1", "audio", "vggsound", "class:people belly laughing", 30.2),
        ("avt-table2", "mbt", "vggsound", "top5", 85.6),
        ("avt-table3", "avt", "epic_kitchens_100", "gmacs", 269),
        ("avt-table4", "masegm-16", "epic_kitchens_100", "action_top1", 47.2),
        ("avt-table4", "avc-32", "kinetics_sounds", "top5", 99.5),
        ("avt-table5", "avt-masegm", "vggsound", "top1", 57.1),
        ("alpha-table1", "timesformer-pos", "vggsound", "nll", 6.98),
    ],
)
def test_published_numbers_that_were_copied_by_hand(name: str, row: str, data: str, measure: str, value: float) -> None:
    rows = {each.id: each for each in load_table(name).rows}
    assert rows[row].published[data][measure] == value


def test_tables_that_no_paper_prints_have_no_published_numbers() -> None:
    assert {name for name in table_names() if any(published(load_table(name)))} == WITH_NUMBERS


@pytest.mark.parametrize("name", sorted(WITH_NUMBERS))
def test_published_numbers_are_those_that_the_paper_prints_in_that_place(name: str) -> None:
    assert disagreements(load_table(name)) == []


@pytest.mark.parametrize("name", sorted(WITH_NUMBERS))
def test_a_number_that_is_changed_is_noticed(name: str) -> None:
    table = load_table(name)
    for row, data, measure, value in published(table):
        changed = row.model_copy(
            update={"published": {**row.published, data: {**row.published[data], measure: round(value + 0.1, 2)}}}
        )
        rows = tuple(changed if each.id == row.id else each for each in table.rows)
        found = disagreements(table.model_copy(update={"rows": rows}))
        assert len(found) == 1
        assert found[0].startswith(f"{row.id}: {measure} on {data}")


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_a_number_that_is_left_out_is_noticed(name: str) -> None:
    table = load_table(name)
    last = table.rows[-1] if table.rows[-1].published else next(row for row in table.rows if row.published)
    rows = tuple(row.model_copy(update={"published": {}}) if row.id == last.id else row for row in table.rows)
    in_prose = (name, last.id) in IN_PROSE
    assert bool(disagreements(table.model_copy(update={"rows": rows}))) is not in_prose


@pytest.mark.parametrize("name", table_names())
def test_what_notes_quote_stands_in_the_paper(name: str) -> None:
    table = load_table(name)
    text = plain(text_of(table.paper))
    quotes = re.findall(r'"([^"]+)"', "\n".join([*table.notes, *(row.note for row in table.rows)]))
    assert [quote for quote in quotes if plain(quote) not in text] == []
