"""Builder `folder`: any folder of media files, with class sub-folders or a `labels.csv`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from features.errors import UsageError
from features.media import MEDIA_SUFFIXES
from manifests.manifest import Manifest
from manifests.splits import held_out

REVISION = 1
TEST_FRACTION = 0.2
_SPLIT_SEED = 0


def build_folder(
    root: Path,
    name: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    outside_root: bool = False,
) -> Manifest:
    """Describe a folder of clips.

    With a `labels.csv` in it, each row is a clip: its file is in column `path`, else `file`. Only columns named by the
    manifest's schema, or by a `*_column` argument, are read. Without one, media files in sub-folders are labelled by
    their first folder, and files lying directly in `root` have no label. Where no split is given, 80 % of the clips
    are train and 20 % test, by whole groups, stratified, with a fixed seed.

    Raises UsageError when the folder, a column or a clip id is wrong, or a path leaves the folder and `outside_root`
    does not allow it.
    """
    root = root.resolve()
    if not root.is_dir():
        raise UsageError(f"ROOT={root} is not a folder: name the folder that holds the clips")
    columns = {"label": label_column, "group": group_column, "split": split_column}
    listed = root / "labels.csv"
    if listed.is_file():
        table = _from_csv(listed, columns)
    else:
        given = [f"--{column}-column" for column, value in columns.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} needs a labels.csv in {root}, and there is none")
        table = _from_tree(root)
    if table.empty:
        raise UsageError(f"no media files in {root}: expected class sub-folders, a labels.csv, or the files themselves")
    provenance: dict[str, Any] = {"builder": "folder", "revision": REVISION, "columns": columns}
    if table["split"].isna().all():
        marked = held_out(table["label"], table["group"], TEST_FRACTION, _SPLIT_SEED)
        table["split"] = pd.Series(marked).map({True: "test", False: "train"})
        provenance["split"] = {"test_fraction": TEST_FRACTION, "seed": _SPLIT_SEED, "by": "group, stratified"}
    name = name or root.name
    return Manifest(
        name=name, collection=name, root=root, table=table, provenance=provenance, outside_root=outside_root
    )


def _from_csv(path: Path, columns: Mapping[str, str | None]) -> pd.DataFrame:
    try:
        source = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a readable CSV file ({error})") from error
    file_column = next((column for column in ("path", "file") if column in source), None)
    if file_column is None:
        raise UsageError(f"{path} has no column 'path' or 'file' (it has {', '.join(source.columns)})")
    for flag, column in columns.items():
        if column is not None and column not in source:
            raise UsageError(
                f"--{flag}-column {column}: {path} has no such column (it has {', '.join(source.columns)})"
            )

    def read(column: str) -> pd.Series:
        named = columns.get(column) or column
        values = source[named] if named in source else pd.Series([""] * len(source))
        return values.str.strip().replace("", None)

    files = source[file_column].str.strip()
    start, end = _seconds(read("start"), path, "start"), _seconds(read("end"), path, "end")
    given_ids, groups, made_ids = read("clip_id"), read("group"), _clip_ids(files, start, end)
    return pd.DataFrame(
        {
            "clip_id": given_ids.where(given_ids.notna(), made_ids),
            "path": files,
            "start": start,
            "end": end,
            "label": read("label"),
            "split": read("split"),
            "group": groups.where(groups.notna(), files),  # segments of one file belong together
        }
    )


def _seconds(values: pd.Series, path: Path, column: str) -> pd.Series:
    try:
        return pd.to_numeric(values).astype(float)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}, column '{column}': {error}; write seconds, for example 12.5") from error


def _from_tree(root: Path) -> pd.DataFrame:
    files = sorted(
        file.relative_to(root)
        for file in root.rglob("*")
        if file.suffix.lower() in MEDIA_SUFFIXES and file.is_file() and not file.name.startswith(".")
    )
    paths = pd.Series([str(file) for file in files], dtype=object)
    nowhere = pd.Series([float("nan")] * len(files))
    return pd.DataFrame(
        {
            "clip_id": _clip_ids(paths, nowhere, nowhere),
            "path": paths,
            "start": nowhere,
            "end": nowhere,
            "label": pd.Series([file.parts[0] if len(file.parts) > 1 else None for file in files], dtype=object),
            "split": pd.Series([None] * len(files), dtype=object),
            "group": paths,
        }
    )


def _clip_ids(paths: pd.Series, start: pd.Series, end: pd.Series) -> pd.Series:
    """Readable ids: the path without its suffix, with it where two files differ in nothing else, and with the interval
    where several clips lie in one file."""
    ids = paths.map(lambda path: str(Path(path).with_suffix("")))
    files_per_id = pd.DataFrame({"id": ids, "path": paths}).groupby("id")["path"].transform("nunique")
    ids = ids.where(files_per_id == 1, paths)
    intervals = start.map("{:g}".format) + "-" + end.map("{:g}".format)
    return ids.where(~(ids.duplicated(keep=False) & start.notna()), ids + "@" + intervals)
