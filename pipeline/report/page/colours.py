"""One colour for each row, the same in every figure."""

from collections.abc import Sequence
from dataclasses import dataclass

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's palette for colour-blind readers (https://jfly.uni-koeln.de/color/), without yellow and black, which
a light or dark page hides, and with a grey."""
_DASHES = ("solid", "dash", "dashdot", "longdash")
_PATTERNS = ("", "/", "x", ".")


@dataclass(frozen=True)
class RowStyle:
    """Colour of a row, and dash of lines and pattern of bars for rows beyond the palette."""

    colour: str
    dash: str
    pattern: str


def row_styles(names: Sequence[str]) -> dict[str, RowStyle]:
    """Styles by name, in order."""
    styles = {}
    for number, name in enumerate(names):
        repeat = number // len(PALETTE) % len(_DASHES)
        styles[name] = RowStyle(PALETTE[number % len(PALETTE)], _DASHES[repeat], _PATTERNS[repeat])
    return styles
