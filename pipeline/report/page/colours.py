"""One colour for each row, the same in every figure."""

from collections.abc import Sequence
from dataclasses import dataclass

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's, which colour-blind eyes tell apart (https://jfly.uni-koeln.de/color/), without the yellow and the
black that a light or a dark page swallows, and a grey."""
_DASHES = ("solid", "dash", "dashdot", "longdash")
_PATTERNS = ("", "/", "x", ".")


@dataclass(frozen=True)
class RowStyle:
    """colour, and for rows beyond the palette a dash of lines and a pattern of bars."""

    colour: str
    dash: str
    pattern: str


def row_styles(names: Sequence[str]) -> dict[str, RowStyle]:
    """By name, in order."""
    found = {}
    for number, name in enumerate(names):
        again = number // len(PALETTE) % len(_DASHES)
        found[name] = RowStyle(PALETTE[number % len(PALETTE)], _DASHES[again], _PATTERNS[again])
    return found
