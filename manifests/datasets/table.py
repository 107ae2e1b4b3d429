"""Builder `csv`: any table with a clip a row; and the reading of such tables, which `folder` shares."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.manifests.annotations import Annotations
from avfuse.manifests.description import DatasetDescription
from avfuse.manifests.manifest import COLUMNS, SEPARATOR, Target
from avfuse.manifests.media_tree import MediaTree
from avfuse.manifests.splits import group_holdout

REVISION = 2
TEST_FRACTION = 0.2
_SPLIT_SEED = 0

GUIDE = """A table of your own, a clip a row: its file, relative to ROOT, in column `path` or `file`. Optional columns
  are clip_id, start and end (seconds), label, split (train, val, test or unlabelled) and group (clips that must stay
  together):
    ROOT=DIR TABLE=clips.csv (--root DIR --table clips.csv)
  Columns that are called otherwise are named by --label-column and its like."""


def describe_csv(
    root: Path,
    annotations: Annotations,
    table: Path | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    targets: Sequence[str] = (),
    several: Sequence[str] = (),
    outside_root: bool = False,
) -> DatasetDescription:
    """A table with a clip a row.

    `targets` are columns to learn instead of the label, and `several` those of which a clip may have several classes,
    separated by "|". Where no split is given, 80 % of the clips are train and 20 % test, by whole groups, stratified,
    with a fixed seed. Raises UsageError when the table or a column is missing or wrong.
    """
    root = MediaTree(root).root
    if table is None:
        raise UsageError(f"data set 'csv' needs its table: TABLE=FILE (--table FILE)\n\n{GUIDE}")
    columns = {"label": label_column, "group": group_column, "split": split_column}
    read = read_table(annotations.use(table), columns, [*targets, *several])
    notes = unread_note(table, columns, [*targets, *several], read)
    provenance = {"builder": "csv", "revision": REVISION, "options": {**columns, **_named(targets, several)}}
    own = listed(table.stem, root, read, provenance, targets, several, outside_root)
    return replace(own, notes=tuple(notes))


def listed(
    name: str,
    root: Path,
    table: pd.DataFrame,
    provenance: dict[str, Any],
    targets: Sequence[str] = (),
    several: Sequence[str] = (),
    outside_root: bool = False,
) -> DatasetDescription:
    """A listing of a user's own clips: what is not there is for extraction to say. Missing splits are drawn."""
    if table["split"].isna().all():
        marked = group_holdout(table["label"], table["group"], TEST_FRACTION, _SPLIT_SEED)
        table["split"] = pd.Series(marked).map({True: "test", False: "train"})
        provenance["split"] = {"test_fraction": TEST_FRACTION, "seed": _SPLIT_SEED, "by": "group, stratified"}
    return DatasetDescription(
        name=name,
        table=table,
        targets=tuple(Target(column, several=column in several) for column in dict.fromkeys([*targets, *several]))
        or (Target("label"),),
        provenance=provenance,
        outside_root=outside_root,
    )


def _named(targets: Sequence[str], several: Sequence[str]) -> dict[str, list[str]]:
    return {name: list(columns) for name, columns in (("targets", targets), ("several", several)) if columns}


def unread_note(path: Path, columns: Mapping[str, str | None], more: Sequence[str], table: pd.DataFrame) -> list[str]:
    """Which columns of a file nothing was read from, where labels, groups or splits are missing and may be in them."""
    missing = [name for name, column in columns.items() if column is None and _is_missing(name, table, more)]
    source = pd.read_csv(path, dtype=str, nrows=0, index_col=False, encoding="utf-8-sig").columns.str.strip()
    known = {*COLUMNS, "path", "file", *more, *columns.values()}
    unread = [name for name in source if name not in known]
    if not missing or not unread:
        return []
    options = ", ".join(f"--{name}-column" for name in missing)
    return [f"{path.name} has other columns, which are not read: {', '.join(unread)}; is one of them for {options}?"]


def _is_missing(column: str, table: pd.DataFrame, targets: Sequence[str]) -> bool:
    if column == "group":
        return bool((table["group"] == table["path"]).all())
    return bool(table[column].isna().all()) and not (column == "label" and targets)


def read_table(path: Path, columns: Mapping[str, str | None], more: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file in the shape of a manifest's table, with the columns in `more` besides. Other columns are not read.

    `columns` maps label, group and split to the file's own names for them, None for the same name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            source = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except pd.errors.ParserWarning as error:
        raise UsageError(f"{path}: a row has more cells than the header; quote cells that hold a comma") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a readable CSV file ({error})") from error
    source.columns = source.columns.str.strip()
    if source.empty:
        raise UsageError(f"{path} has no rows: a clip each")
    file_column = next((column for column in ("path", "file") if column in source), None)
    if file_column is None:
        raise UsageError(f"{path} has no column 'path' or 'file' (it has {', '.join(source.columns)})")
    asked = [(f"--{name}-column {column}", column) for name, column in columns.items() if column is not None]
    for said, column in [*asked, *(("target", name) for name in more)]:
        if column not in source:
            said = said if said.startswith("--") else f"target '{column}'"
            raise UsageError(f"{said}: {path} has no such column (it has {', '.join(source.columns)})")
    taken = next((name for name in more if name in COLUMNS and name != "label"), None)
    if taken is not None:
        raise UsageError(f"column '{taken}' says something else of a clip: a target needs another name")

    def read(column: str) -> pd.Series:
        named = columns.get(column) or column
        values = source[named] if named in source else pd.Series([""] * len(source))
        return values.str.strip().replace("", None)

    files = source[file_column].str.strip()
    if (files == "").any():
        raise UsageError(f"{path}, line {files.eq('').idxmax() + 2}: column '{file_column}' is empty")
    start, end = _seconds(read("start"), path, "start"), _seconds(read("end"), path, "end")
    given_ids, groups, made_ids = read("clip_id"), read("group"), clip_ids(files, start, end)
    return pd.DataFrame(
        {
            "clip_id": given_ids.where(given_ids.notna(), made_ids),
            "path": files,
            "start": start,
            "end": end,
            "label": read("label"),
            "split": read("split"),
            "group": groups.where(groups.notna(), files),  # segments of one file belong together
            **{name: read(name).str.replace(r"\s*\|\s*", SEPARATOR, regex=True) for name in more if name != "label"},
        }
    )


def _short(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _seconds(values: pd.Series, path: Path, column: str) -> pd.Series:
    try:
        return pd.to_numeric(values).astype(float)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}, column '{column}': {error}; write seconds, for example 12.5") from error


def clip_ids(paths: pd.Series, start: pd.Series, end: pd.Series) -> pd.Series:
    """Readable ids: the path without its suffix, with it where two files differ in nothing else, and with the interval
    where several clips lie in one file."""
    ids = paths.map(lambda path: str(Path(path).with_suffix("")))
    files_per_id = pd.DataFrame({"id": ids, "path": paths}).groupby("id")["path"].transform("nunique")
    ids = ids.where(files_per_id == 1, paths)
    intervals = start.map(_short) + "-" + end.map(_short)
    return ids.where(~(ids.duplicated(keep=False) & start.notna()), ids + "@" + intervals)
