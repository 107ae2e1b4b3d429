"""Manifests on disk: one Parquet file each under `cache/manifests/`, with its provenance inside."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import UsageError
from manifests.manifest import Manifest

_METADATA_KEY = b"avfuse"


def save_manifest(cache: Path, manifest: Manifest, replace: bool = False) -> Path:
    """Write a manifest. Raises UsageError when the collection already stands for media under another root, unless
    `replace` says that these are the same media, moved."""
    for other in list_manifests(cache):
        known = load_manifest(cache, other)
        if known.collection == manifest.collection and known.root != manifest.root and not replace:
            raise UsageError(
                f"'{manifest.collection}' already stands for the media in {known.root}: "
                f"give {manifest.root} another name (NAME=...), or say --replace if the media moved there"
            )
    path = _path(cache, manifest.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    described = {
        "name": manifest.name,
        "collection": manifest.collection,
        "root": str(manifest.root),
        "provenance": manifest.provenance,
        "outside_root": manifest.outside_root,
    }
    table = pa.Table.from_pandas(manifest.table, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _METADATA_KEY: json.dumps(described)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_manifest(cache: Path, name: str) -> Manifest:
    """Read a manifest by its data set's name. Raises UsageError that lists the known ones."""
    path = _path(cache, name)
    if not path.is_file():
        known = ", ".join(list_manifests(cache)) or "none yet"
        raise UsageError(
            f"no data set '{name}' in {cache / 'manifests'} (there: {known}): "
            "build it first, for example avfuse manifest folder --root DIR"
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path} is not a manifest ({error}): build it again") from error
    described = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"null"))
    if described is None:
        raise UsageError(f"{path} was not written by avfuse: build the manifest again")
    return Manifest(
        name=described["name"],
        collection=described["collection"],
        root=Path(described["root"]),
        table=table.to_pandas(),
        provenance=described["provenance"],
        outside_root=described.get("outside_root", False),
    )


def list_manifests(cache: Path) -> list[str]:
    return sorted(path.stem for path in (cache / "manifests").glob("*.parquet"))


def _path(cache: Path, name: str) -> Path:
    return cache / "manifests" / f"{name}.parquet"
