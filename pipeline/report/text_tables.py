"""Data frames as aligned text; shares in per cent, intervals and p values as cells."""

import math
from collections.abc import Collection

import pandas as pd


def percent(share: float) -> str:
    """A share as per cent: 0.466 is `46.6`; NaN is a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def points(share: float) -> str:
    """A difference of shares as signed percentage points; NaN is a dash."""
    return "-" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:+.1f}"


def points_span(low: float, high: float) -> str:
    """The interval of a difference of shares, in percentage points."""
    return f"{points(low)} to {points(high)}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def aligned(table: pd.DataFrame, left: Collection[str]) -> str:
    """A table of texts under its headings. left: left-aligned columns; the others are right-aligned."""
    rows = [list(map(str, table.columns)), *table.to_numpy().tolist()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    to_the_left = [name in left for name in table.columns]
    lines = [
        "  ".join(
            text.ljust(width) if at_left else text.rjust(width)
            for text, width, at_left in zip(row, widths, to_the_left, strict=True)
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
