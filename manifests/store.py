"""Manifests on disk: `cache/manifests/NAME.parquet` or `.csv`, with metadata inside."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from avfuse.features.atomic import atomic_write
from avfuse.features.errors import UsageError
from avfuse.manifests.manifest import Manifest, Target

FORMATS = ("parquet", "csv")
_METADATA_KEY = b"avfuse"
_CSV_MARK = "# avfuse "
"""Begins the first line of a CSV manifest; JSON follows."""


def save_manifest(cache: Path, manifest: Manifest, replace: bool = False, format: str = "parquet") -> Path:
    """Write a manifest. Returns its path.

    Args:
        cache: the folder of manifests and features.
        manifest: to write, in place of one of the same name.
        replace: whether the media of its collection have moved to its root; its other manifests are then moved too.
        format: parquet or csv.

    Raises:
        UsageError: the collection already stands for media under another root, and `replace` is not set.
    """
    conflicts = [
        (path, other)
        for path, other in _readable_metadata(cache)
        if other["collection"] == manifest.collection and other["root"] != str(manifest.root)
    ]
    for path, other in conflicts:
        if not replace:
            raise UsageError(
                f"'{manifest.collection}' already stands for the media in {other['root']} (data set '{path.stem}'): "
                f"add --replace if the media moved to {manifest.root}, or give these another name "
                + ("(NAME=...)" if manifest.name == manifest.collection else "(--collection NAME)")
            )
        if path.stem != manifest.name:
            moved = dataclasses.replace(load_manifest(cache, path.stem), root=manifest.root)
            _write(path, moved)
    path = cache / "manifests" / f"{manifest.name}.{format}"
    _write(path, manifest)
    for other_format in set(FORMATS) - {format}:
        path.with_suffix(f".{other_format}").unlink(missing_ok=True)
    return path


def _write(path: Path, manifest: Manifest) -> None:
    metadata = {
        "name": manifest.name,
        "collection": manifest.collection,
        "root": str(manifest.root),
        "targets": [asdict(target) for target in manifest.targets],
        "provenance": manifest.provenance,
        "outside_root": manifest.outside_root,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        _WRITERS[path.suffix[1:]](temporary, manifest.table, json.dumps(metadata))


def save_left_out(cache: Path, name: str, left_out: pd.DataFrame) -> None:
    """Write which listed clips a manifest leaves out, and why; where there are none, remove the file."""
    path = cache / "manifests" / "left-out" / f"{name}.csv"
    if left_out.empty:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    left_out.to_csv(path, index=False)


def load_manifest(cache: Path, name: str) -> Manifest:
    """Read a manifest by the name of its data set. Raises UsageError that lists those in the cache."""
    paths = [cache / "manifests" / f"{name}.{format}" for format in FORMATS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        known = ", ".join(list_manifests(cache)) or "none yet"
        raise UsageError(
            f"no data set '{name}' in {cache / 'manifests'} (there: {known}): "
            "build it first, for example avfuse manifest folder --root DIR"
        )
    metadata = _read_metadata(path)
    targets = metadata.get("targets", [{"name": "label", "classes": [], "several": False}])
    return Manifest(
        name=metadata["name"],
        collection=metadata["collection"],
        root=Path(metadata["root"]),
        table=_READERS[path.suffix[1:]](path),
        provenance=metadata["provenance"],
        outside_root=metadata.get("outside_root", False),
        targets=tuple(Target(target["name"], tuple(target["classes"]), target["several"]) for target in targets),
    )


def list_manifests(cache: Path) -> list[str]:
    """Names of the data sets with a manifest in a cache, sorted."""
    return sorted({path.stem for path in _files(cache)})


def _files(cache: Path) -> Iterator[Path]:
    for format in FORMATS:
        yield from (path for path in (cache / "manifests").glob(f"*.{format}") if not path.name.startswith("."))


def _readable_metadata(cache: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The path and metadata of every manifest; files that are none are skipped."""
    for path in _files(cache):
        with suppress(UsageError):
            yield path, _read_metadata(path)


def _read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a manifest, without its table. Raises UsageError for a file that is none."""
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8") as file:
                line = file.readline()
            text: str | bytes = line.removeprefix(_CSV_MARK) if line.startswith(_CSV_MARK) else "null"
        else:
            text = (pq.read_schema(path).metadata or {}).get(_METADATA_KEY, b"null")
        metadata = json.loads(text)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UsageError(f"{path} is not a manifest ({error}): build it again") from error
    if not isinstance(metadata, dict):
        raise UsageError(f"{path} was not written by avfuse: build the manifest again")
    return metadata


def _write_parquet(path: Path, table: pd.DataFrame, metadata: str) -> None:
    columns = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(columns.replace_schema_metadata({**(columns.schema.metadata or {}), _METADATA_KEY: metadata}), path)


def _write_csv(path: Path, table: pd.DataFrame, metadata: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{_CSV_MARK}{metadata}\n")
        table.to_csv(file, index=False)


def _read_parquet(path: Path) -> pd.DataFrame:
    return pq.read_table(path).to_pandas()


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, skiprows=1, dtype=str, keep_default_na=False, na_values=[""])
        for column in ("start", "end"):
            table[column] = table[column].astype(float)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not a manifest ({error}): build it again") from error
    return table


_WRITERS = {"parquet": _write_parquet, "csv": _write_csv}
_READERS = {"parquet": _read_parquet, "csv": _read_csv}
