"""Tables of the page: cells as they are read, and what they are sorted by."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"[+\-\u2212]?\d[\d,]*\.?\d*(?:e[+\-]?\d+)?")
_SPAN = re.compile(r"(?<=\d) - (?=[\d.])")


@dataclass(frozen=True)
class Cell:
    """order: what a browser sorts it by; empty for the text itself."""

    text: str
    order: str = ""
    group: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table with its caption. meanings: of headings, in words. text_columns: those that begin at the left, by
    number; the first always does. file: what a downloaded CSV is called, without its ending."""

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    file: str
    meanings: Mapping[str, str]
    text_columns: frozenset[int] = frozenset()
    colours: Mapping[str, str] | None = None

    def is_text(self, column: int) -> bool:
        return column == 0 or column in self.text_columns


def cell(text: str) -> Cell:
    """A number, or an interval, is sorted by its first number; a dash comes last going down."""
    found = _NUMBER.match(text)
    shown = _SPAN.sub(" \u2013 ", text) if text != "-" else "\u2013"
    if text == "-":
        return Cell(shown, "-1e99")
    if found is None:
        return Cell(shown)
    return Cell(_minus(shown), found.group().replace(",", "").replace("\u2212", "-"))


def _minus(text: str) -> str:
    """A hyphen before a digit, as a minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text)
