"""A data set as its official files describe it, before anyone looked which of its clips are there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from avfuse.manifests.manifest import Target
from avfuse.moved_modules import renamed


@dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """The clips that official files list, and what the product needs to know of them. Returned by a builder."""

    name: str
    collection: str | None = None
    """Name of the media, which several data sets may share; None: the user's name of the data set, or else `name`."""
    table: pd.DataFrame
    """The columns of a manifest, a row per listed clip; `path` is None where no file was found."""
    targets: tuple[Target, ...] = (Target("label"),)
    """Targets that heads learn."""
    provenance: dict[str, Any]
    """Builder, revision and options, as JSON keeps them."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of files by path, as far as they were looked at: empty files are left out."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Clips per split of the published lists."""
    published: Mapping[str, int] = field(default_factory=dict)
    """Clips per split that a paper says it used."""
    validation: pd.Series | float | None = None
    """Clips of train to validate on: a boolean mask, or a share to draw by group; None where the lists have a split of
    their own, or training draws it."""
    needs_audio: bool = False
    """Whether clips without an audio stream are left out."""
    outside_root: bool = False
    """Whether paths may leave the root."""
    notes: tuple[str, ...] = ()
    """Lines to print for the user."""


def clip_table(**columns: Any) -> pd.DataFrame:
    """A table of clips with the given columns. Clips without `start` and `end` (seconds) are whole files."""
    table = pd.DataFrame(columns)
    for column in ("start", "end"):
        if column not in table:
            table[column] = float("nan")
    return table


def sort_clips(table: pd.DataFrame) -> pd.DataFrame:
    """Sort a table by path, start and clip id, so that clips of one file, folder or archive are read together."""
    return table.sort_values(["path", "start", "clip_id"], kind="stable").reset_index(drop=True)


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Listing": "DatasetDescription", "in_order": "sort_clips", "rows": "clip_table"})
