"""Finished tables, found again among runs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from avfuse.features.errors import UsageError

TABLE = "table.json"


def is_table(folder: Path) -> bool:
    """Whether `avfuse ablate` has written one there."""
    return (folder / TABLE).is_file()


def read_table(folder: Path) -> dict[str, Any]:
    """What its JSON says. Raises UsageError where it is damaged."""
    try:
        found: dict[str, Any] = json.loads((folder / TABLE).read_text())
    except json.JSONDecodeError as error:
        raise UsageError(f"{folder / TABLE} is damaged ({error}): make the table again (avfuse ablate)") from error
    return found


def tuned_heads(folder: Path, row: str) -> tuple[Path, str]:
    """The run that a row's tuned heads lie in, and what they are called there. Raises UsageError for no such row."""
    rows = read_table(folder)["rows"]
    if row not in rows:
        raise UsageError(f"{folder} has no trained row {row!r}: name one, {folder}:ROW ({', '.join(rows)})")
    return Path(rows[row]["folder"]), rows[row]["tuned"]


def described_in_a_line(folder: Path) -> str:
    """Data set, table, rows, seeds, the best row, when it was made."""
    table = read_table(folder)
    rows = pd.read_csv(folder / "table.csv").dropna(subset="tuned")
    best = rows.loc[rows["tuned"].idxmax()]
    seeds = max(each["seeds"] for each in table["rows"].values())
    parts = [
        table["dataset"],
        f"{table['table']}, {table['backbones']}",
        f"{len(rows)} rows, {seeds} seeds",
        f"best: {best['id']} {100 * best['tuned']:.1f} %",
        table["created"],
    ]
    return " | ".join(parts)
