"""Builder `folder`: any folder of media files, with class sub-folders or a `labels.csv`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from avfuse.features.archives import is_archive
from avfuse.features.errors import UsageError
from avfuse.manifests.annotations import Annotations
from avfuse.manifests.datasets.table import clip_ids, describe_table, read_table, unread_columns_note
from avfuse.manifests.description import DatasetDescription
from avfuse.manifests.media_tree import MediaTree

REVISION = 2

GUIDE = (
    "Clips of your own in ROOT=DIR (--root DIR): in a sub-folder for each class, or with a labels.csv, a clip a row."
)


def describe_folder(
    root: Path,
    annotations: Annotations,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    targets: Sequence[str] = (),
    several: Sequence[str] = (),
    outside_root: bool = False,
) -> DatasetDescription:
    """Describe a folder of clips.

    With a `labels.csv` in it, each row is a clip, as in a table of the builder `csv`. Without one, media files in
    sub-folders are labelled by their first folder, and files lying directly in `root` have no label.

    Raises UsageError when the folder, a column or a clip id is invalid.
    """
    media = MediaTree(root)
    columns = {"label": label_column, "group": group_column, "split": split_column}
    path, unread = media.root / "labels.csv", []
    if path.is_file():
        table = read_table(annotations.use(path), columns, [*targets, *several])
        unread = unread_columns_note(path, columns, [*targets, *several], table)
    else:
        given = [f"--{name}-column" for name, column in columns.items() if column is not None]
        given += [f"--{name}" for name, value in (("targets", targets), ("several", several)) if value]
        if given:
            raise UsageError(f"{given[0]} needs a labels.csv in {media.root}, and there is none")
        table = _from_tree(media)
    if table.empty:
        raise UsageError(
            f"no media files in {media.root}: expected class sub-folders, a labels.csv, or the files themselves"
        )
    options = {**columns, "targets": list(targets), "several": list(several)}
    provenance = {
        "builder": "folder",
        "revision": REVISION,
        "options": {key: value for key, value in options.items() if value},
    }
    description = describe_table(media.root.name, media.root, table, provenance, targets, several, outside_root)
    return replace(description, notes=(*media.problems, *unread, *_notes(description)))


def _notes(description: DatasetDescription) -> list[str]:
    classes = set(description.table["label"].dropna())
    if classes and classes <= {"train", "training", "val", "valid", "validation", "test", "testing"}:
        return [
            f"the classes are called {', '.join(sorted(classes))}: for splits, write a labels.csv with a column split"
        ]
    return []


def _from_tree(media: MediaTree) -> pd.DataFrame:
    paths = pd.Series(sorted(media.sizes), dtype=object)
    nowhere = pd.Series([float("nan")] * len(paths))
    first = pd.Series([_first_folder(path) for path in paths], dtype=object)
    return pd.DataFrame(
        {
            "clip_id": clip_ids(paths, nowhere, nowhere),
            "path": paths,
            "start": nowhere,
            "end": nowhere,
            "label": first,
            "split": pd.Series([None] * len(paths), dtype=object),
            "group": paths,
        }
    )


def _first_folder(path: str) -> str | None:
    """The first folder of a path that is no archive; None where there is none."""
    return next((part for part in path.split("/")[:-1] if not is_archive(part)), None)
