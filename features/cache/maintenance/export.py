"""Export of a feature to one file for NumPy or safetensors. Memory holds one shard's rows at a time."""

import json
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from avfuse.features.atomic import atomic_write
from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.shard_reader import read_rows
from avfuse.features.cache.store import DONE, FeatureStore, LookupResult, retry_if_removed
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec

SUFFIXES = (".npz", ".safetensors")
_SAFETENSORS_TYPES = {"float16": "F16", "float32": "F32", "uint8": "U8"}
_COPY_BYTES = 2**20


@dataclass(frozen=True)
class ExportSummary:
    """The result of an export."""

    clips: int  #: clips in the file
    missing: dict[str, str]  #: the reason of each other clip, by id


def check_suffix(path: Path) -> Path:
    """Raises UsageError for a file format that is not supported."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"-o {path}: the file's name must end in {' or '.join(SUFFIXES)}")
    return path


def export(store: FeatureStore, clips: Sequence[Clip], target: Path) -> ExportSummary:
    """Write the rows of some clips, verified, in their order, atomically.

    NPZ holds the arrays `clip_id` (n,) as UTF-8 bytes, `data` (n, *shape), `missing` and `missing_because` (m,) as
    UTF-8 bytes, `spec` () as JSON in bytes, and `untrained` (). Safetensors holds `clip_id` (n, width) as UTF-8 bytes
    filled with zeros, and `data`; `spec`, `untrained` and `missing` (JSON, clip id to reason) are in its metadata.

    Raises UsageError for another file format, if none of the clips has the feature, and if a shard is damaged.
    """
    check_suffix(target)
    query = ClipQuery(clips)
    rows_file = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        result, data = retry_if_removed(lambda: _gather(store, query, rows_file))
        present = result.outcome == DONE
        ids = np.array(query.ids[present].tolist(), dtype=bytes)
        missing = {query.clips[index].clip_id: result.why_missing(index) for index in np.flatnonzero(~present).tolist()}
        write = _write_npz if target.suffix.lower() == ".npz" else _write_safetensors
        with atomic_write(target, durable=True) as temporary, temporary.open("xb") as file:
            write(file, store.spec, ids, data, missing)
    finally:
        rows_file.unlink(missing_ok=True)
    return ExportSummary(len(ids), missing)


def _gather(store: FeatureStore, query: ClipQuery, path: Path) -> tuple[LookupResult, NDArray[np.generic]]:
    """The rows of the clips that have the feature, (n, *shape), in a memory-mapped file at `path`."""
    result = store.lookup(query)
    present = np.flatnonzero(result.outcome == DONE)
    if not len(present):
        raise UsageError(f"none of these {len(query)} clips has the feature '{store.spec.name}': nothing to export")
    shard, row = result.shard[present], result.row[present]
    dtype = np.dtype(store.spec.dtype).newbyteorder("<")
    data = np.memmap(path, dtype, mode="w+", shape=(len(present), *store.spec.shape))
    for number in np.unique(shard).tolist():
        at = np.flatnonzero(shard == number)
        data[at] = read_rows(result.shards[number], store.spec)[row[at]]
    return result, data


def _write_npz(
    file: IO[bytes], spec: FeatureSpec, ids: NDArray[np.bytes_], data: NDArray[np.generic], missing: dict[str, str]
) -> None:
    arrays = {
        "clip_id": ids,
        "data": data,
        "missing": np.array([clip_id.encode() for clip_id in missing], dtype=bytes),
        "missing_because": np.array([reason.encode() for reason in missing.values()], dtype=bytes),
        "spec": np.array(spec.canonical_json.encode()),
        "untrained": np.array(spec.untrained),
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_safetensors(
    file: IO[bytes], spec: FeatureSpec, ids: NDArray[np.bytes_], data: NDArray[np.generic], missing: dict[str, str]
) -> None:
    """Length of the header, header, arrays: without the library, which needs all bytes in memory."""
    texts = ids.view(np.uint8).reshape(len(ids), -1)
    contents = {
        "__metadata__": {
            "spec": spec.canonical_json,
            "untrained": json.dumps(spec.untrained),
            "missing": json.dumps(missing),
        },
        "data": {
            "dtype": _SAFETENSORS_TYPES[spec.dtype],
            "shape": data.shape,
            "data_offsets": (0, data.nbytes),
        },
        "clip_id": {
            "dtype": "U8",
            "shape": texts.shape,
            "data_offsets": (data.nbytes, data.nbytes + texts.nbytes),
        },
    }
    header = json.dumps(contents).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for array in (data, texts):
        content = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        for first in range(0, len(content), _COPY_BYTES):
            file.write(content[first : first + _COPY_BYTES])
