"""Tables of the page: the text of cells, and the values that they are sorted by."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"[+\-\u2212]?\d[\d,]*\.?\d*(?:e[+\-]?\d+)?")
_SPAN = re.compile(r"(?<=\d) - (?=[\d.])")


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    order: str = ""  # sort key; empty for the text itself
    group: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table with its caption."""

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    file: str  # name of a downloaded CSV, without suffix
    meanings: Mapping[str, str]  # explanations of headings
    text_columns: frozenset[int] = frozenset()  # left-aligned columns, beside the first
    colours: Mapping[str, str] | None = None  # of rows, by the text of their first cell

    def is_text(self, column: int) -> bool:
        return column == 0 or column in self.text_columns


def cell(text: str) -> Cell:
    """A cell of a number or interval, sorted by its first number; a dash is the smallest."""
    number = _NUMBER.match(text)
    shown = _SPAN.sub(" \u2013 ", text) if text != "-" else "\u2013"
    if text == "-":
        return Cell(shown, "-1e99")
    if number is None:
        return Cell(shown)
    return Cell(_minus(shown), number.group().replace(",", "").replace("\u2212", "-"))


def _minus(text: str) -> str:
    """Hyphens before digits as minus signs."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text)
