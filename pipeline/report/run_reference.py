"""Resolving `RUN`, `RUN:ROW` or a table's `FOLDER:ROW`, as users write them, to the run and its row."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.runs.restore import load_rows
from avfuse.stages.fuse.runs.run_folder import Run, RunFolder

TABLE_CSV, TABLE_CURVES, TABLE_JSON = "table.csv", "curves.csv", "table.json"
"""Files of a table's folder, which `avfuse ablate` writes."""


@dataclass(frozen=True)
class RunRef:
    """A run and one of its rows; None stands for all of several."""

    run: Run
    row: str | None

    @property
    def name(self) -> str:
        """`FOLDER` or `FOLDER:ROW`, as a user writes it."""
        return str(self.run.folder) if self.row is None else f"{self.run.folder}:{self.row}"


def read_run_ref(text: str) -> RunRef:
    """Load the run that `RUN` or `RUN:ROW` names, where RUN is a run's folder; the only row of a run need not be named.
    `FOLDER:ROW` of a table's folder gives the tuned heads of that row.

    Raises UsageError where there is no such run or row, or no head of it is trained yet.
    """
    ends = [len(text), *(at for at, letter in enumerate(text) if letter == ":")]
    places = [(Path(text[:end]), text[end + 1 :]) for end in ends]
    place = next((place for place in places if is_table(place[0]) or RunFolder(place[0]).exists), None)
    if place is None:
        raise UsageError(
            f"{text} is no run: name the folder of one that avfuse fuse trained (avfuse runs list), or FOLDER:ROW"
        )
    folder, row = tuned_heads(*place) if is_table(place[0]) else place
    run = load_rows(folder, [row] if row else [])
    return RunRef(run, next(iter(run.heads)) if len(run.heads) == 1 else None)


def is_table(folder: Path) -> bool:
    """Whether `avfuse ablate` has written a table there."""
    return (folder / TABLE_JSON).is_file()


def read_table(folder: Path) -> dict[str, Any]:
    """The table's JSON. Raises UsageError where it is damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / TABLE_JSON).read_text())
    except json.JSONDecodeError as error:
        raise UsageError(f"{folder / TABLE_JSON} is damaged ({error}): make the table again (avfuse ablate)") from error
    return content


def tuned_heads(folder: Path, row: str) -> tuple[Path, str]:
    """The run's folder and the row in it that hold the tuned heads of a table's row. Raises UsageError for an unknown
    row."""
    rows = read_table(folder)["rows"]
    if row not in rows:
        raise UsageError(f"{folder} has no trained row {row!r}: name one, {folder}:ROW ({', '.join(rows)})")
    return Path(rows[row]["folder"]), rows[row]["tuned"]
