"""A data set as its official files have it, before anyone asked which of its clips are really there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from avfuse.manifests.manifest import Target


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a builder gives.

    `collection` names the media; None: what the user calls the data set, or else its name. `table` has the columns of a
    manifest; `path` is None where no file was found. `sizes` holds the bytes of files by path, as far as they were
    looked at. `expected` counts the clips of each split in the published lists, `published` what a paper says it used
    of them. `validation` marks clips of train that are set aside to choose on: a mask, a share of train to draw by
    group, or None where the lists have a split of their own or training draws it. With `needs_audio`, clips without an
    audio stream are left out. `notes` are what a user should know.
    """

    name: str
    collection: str | None = None
    table: pd.DataFrame
    targets: tuple[Target, ...] = (Target("label"),)
    provenance: dict[str, Any]
    sizes: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    validation: pd.Series | float | None = None
    needs_audio: bool = False
    outside_root: bool = False
    notes: tuple[str, ...] = ()


def rows(**columns: Any) -> pd.DataFrame:
    """A table in the shape of a manifest's: `start` and `end` are the whole file's where not given."""
    table = pd.DataFrame(columns)
    for column in ("start", "end"):
        if column not in table:
            table[column] = float("nan")
    return table


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Clips of one file, folder or archive side by side, whatever order the lists have."""
    return table.sort_values(["path", "start", "clip_id"], kind="stable").reset_index(drop=True)
