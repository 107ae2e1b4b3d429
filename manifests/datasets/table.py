"""Builder `csv`: any table with a row per clip; also reads such tables for `folder`."""

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
    """Describe a table with a row per clip.

    Without a split, 80 % of the clips are train and 20 % test, by whole groups, stratified, with a fixed seed.

    Args:
        root: the folder of the media.
        annotations: records the hash of the table.
        table: the CSV file.
        label_column, group_column, split_column: the file's names of these columns.
        targets: columns to learn instead of the label.
        several: columns to learn of which a clip may have several classes, separated by "|".
        outside_root: whether paths may leave the root.

    Raises:
        UsageError: the table or a column is missing or invalid.
    """
    root = MediaTree(root).root
    if table is None:
        raise UsageError(f"data set 'csv' needs its table: TABLE=FILE (--table FILE)\n\n{GUIDE}")
    columns = {"label": label_column, "group": group_column, "split": split_column}
    clips = read_table(annotations.use(table), columns, [*targets, *several])
    notes = unread_columns_note(table, columns, [*targets, *several], clips)
    provenance = {"builder": "csv", "revision": REVISION, "options": {**columns, **_named(targets, several)}}
    description = describe_table(table.stem, root, clips, provenance, targets, several, outside_root)
    return replace(description, notes=tuple(notes))


def describe_table(
    name: str,
    root: Path,
    table: pd.DataFrame,
    provenance: dict[str, Any],
    targets: Sequence[str] = (),
    several: Sequence[str] = (),
    outside_root: bool = False,
) -> DatasetDescription:
    """Describe a user's own clips, and draw missing splits. Missing files stay in: extraction reports them."""
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


def unread_columns_note(
    path: Path, columns: Mapping[str, str | None], more: Sequence[str], table: pd.DataFrame
) -> list[str]:
    """A note on the columns of a file that were not read, where labels, groups or splits are missing."""
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
    """Read a CSV file as the table of a manifest.

    Args:
        path: of the file.
        columns: the file's names of label, group and split; None for the same name.
        more: further columns to read.
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
        raise UsageError(f"{path} has no rows: write one per clip")
    file_column = next((column for column in ("path", "file") if column in source), None)
    if file_column is None:
        raise UsageError(f"{path} has no column 'path' or 'file' (it has {', '.join(source.columns)})")
    required = [(f"--{name}-column {column}", column) for name, column in columns.items() if column is not None]
    for option, column in [*required, *((f"target '{name}'", name) for name in more)]:
        if column not in source:
            raise UsageError(f"{option}: {path} has no such column (it has {', '.join(source.columns)})")
    reserved = next((name for name in more if name in COLUMNS and name != "label"), None)
    if reserved is not None:
        raise UsageError(f"column '{reserved}' has another meaning in a manifest: a target needs another name")

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
    """Readable ids: the path without its suffix; with it where two files differ in nothing else; with the interval
    where a file has several clips."""
    ids = paths.map(lambda path: str(Path(path).with_suffix("")))
    files_per_id = pd.DataFrame({"id": ids, "path": paths}).groupby("id")["path"].transform("nunique")
    ids = ids.where(files_per_id == 1, paths)
    intervals = start.map(_short) + "-" + end.map(_short)
    return ids.where(~(ids.duplicated(keep=False) & start.notna()), ids + "@" + intervals)
