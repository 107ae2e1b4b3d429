"""Features that were computed elsewhere, one NumPy file per clip, into the cache.

Every file is read and checked before anything is committed, and read again to be committed.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avfuse.features.cache.catalog import cached_features
from avfuse.features.cache.claims import Claims, claim_id
from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.fingerprint import fingerprint
from avfuse.features.cache.shard_reader import read_rows
from avfuse.features.cache.shard_writer import ChunkResult, software_versions
from avfuse.features.cache.store import DONE, FeatureStore
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.media.sampling import segment_centres
from avfuse.features.spec import IMPORTED, FeatureSpec, ImportedInput

CHUNK_CLIPS = 512
CHUNK_BYTES = 128 * 2**20
PATTERNS = ("{clip_id}.npy", "{stem}.npy")
_PLACE = re.compile(r"\{(.*?)\}")
_NAME = re.compile(r"\w[\w.-]*")
_REDUCE = re.compile(r"mean|uniform:([1-9]\d*)")

Files = Sequence[tuple[Clip, Path]]
Stored = Literal["float16", "float32"]


@dataclass(frozen=True)
class ImportDescription:
    """What whoever brings a feature says of it. reduce: `mean` over a clip's rows, `uniform:N` for the N at the centres
    of N equal segments, or None. dtype: how rows are stored.

    Raises UsageError for a name or a reduction that is none.
    """

    name: str
    modality: Literal["video", "audio"]
    text: str
    reduce: str | None = None
    dtype: Stored = "float16"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"--name {self.name}: use letters, digits, and . _ - behind the first")
        if not self.text.strip():
            raise UsageError("--description is empty: say which network gave these features, from what")
        if self.reduce is not None and not _REDUCE.fullmatch(self.reduce):
            raise UsageError(f"--reduce {self.reduce}: write mean, or uniform:N for N rows evenly spread")

    def spec(self, shape: tuple[int, ...]) -> FeatureSpec:
        """The spec of rows (D,) or (T, D). It says nothing of a reader, a network or weights."""
        return FeatureSpec(
            name=f"{IMPORTED}:{self.name}",
            input=ImportedInput(modality=self.modality, description=self.text.strip(), reduce=self.reduce, shape=shape),
            model=None,
            output="pooled" if len(shape) == 1 else "frames",
            shape=shape,
            dtype=self.dtype,
            compute="float64",
        )


@dataclass(frozen=True)
class ImportSummary:
    """How an import ended, in clips: new, there: with equal numbers before. without_media: new ones whose media file is
    not there, which count for as long as it is not."""

    spec: FeatureSpec
    folder: Path
    new: int
    there: int
    without_media: int


def find_files(folder: Path, clips: Sequence[Clip], pattern: str | None = None) -> tuple[Files, list[str]]:
    """The file of each clip that has one, and the ids of the others, in the clips' order.

    pattern: a path in the folder that ends in .npy, in which `{clip_id}` and `{stem}` (of the media file) stand for a
    clip's; by default the first of PATTERNS that is there. Links in the folder may lead where they like.

    Raises UsageError: no folder, no such pattern, no file at all, one file for several clips, one outside the folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name the one that holds the .npy files")
    patterns = PATTERNS if pattern is None else (_check_pattern(pattern),)
    files: list[tuple[Clip, Path]] = []
    missing: list[str] = []
    owners: dict[Path, str] = {}
    for clip in clips:
        path = next((path for path in _places(folder, patterns, clip) if os.path.isfile(path)), None)
        if path is None:
            missing.append(clip.clip_id)
            continue
        if not _lies_in(folder, path):
            raise UsageError(f"{path} of clip '{clip.clip_id}' lies outside {folder}: only files inside it are read")
        if path in owners:
            raise UsageError(
                f"{path} would be the file of '{owners[path]}' and of '{clip.clip_id}': name files by {{clip_id}} "
                "(--pattern)"
            )
        owners[path] = clip.clip_id
        files.append((clip, path))
    if not files:
        looked = " or ".join(str(path) for path in _places(folder, patterns, clips[0])) if clips else "nothing"
        raise UsageError(f"no clip has a file in {folder}: looked for {looked}; say how they are called (--pattern)")
    return files, missing


def import_files(
    cache: Path,
    collection: str,
    files: Files,
    description: ImportDescription,
    passed: Callable[[int], object] = lambda steps: None,
) -> ImportSummary:
    """Bring the arrays of some clips, (D,) or (T, D), all of one shape once they are reduced, into the cache. Clips
    that are there already with equal numbers are left alone.

    passed: gets steps that are done; every file is two.

    Raises UsageError that names the first file that is no such array, holds numbers that are not finite or that the
    dtype cannot hold, has another shape than the first, or other numbers than the cache; when a feature of this name is
    there that is described otherwise; and when another import of it is under way.
    """
    spec = description.spec(read_array(files[0][1], description).shape)
    _refuse_variants(cache, collection, spec)
    claims = Claims(cache, collection)
    free, claim = claims.acquire([claim_id(spec.key, clip) for clip, _ in files])
    try:
        if not free.all():
            raise UsageError(f"another import of '{spec.name}' is under way: wait for it")
        store = FeatureStore(cache, collection, spec)
        new = _check(store, files, description, passed)
        without_media = _commit(store, new, description, passed)
    finally:
        if claim is not None:
            claim.release()
    return ImportSummary(spec, store.folder, len(new), len(files) - len(new), without_media)


def read_array(path: Path, description: ImportDescription) -> NDArray[np.generic]:
    """One clip's array, reduced and as it is stored: (D,) or (T, D). Raises UsageError that names the file."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise UsageError(f"{path} is no whole array in NumPy's .npy format ({error})") from error
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or array.size == 0:
        raise UsageError(
            f"{path} holds {array.dtype} {array.shape}: a clip's numbers are (D,), or (T, D) with a row or more; leave "
            "the file out to have the clip missing"
        )
    if not np.isfinite(array).all():
        raise UsageError(f"{path} holds numbers that are not finite: leave the file out, or compute it again")
    with np.errstate(over="ignore"):
        stored = _reduced(array, description.reduce, path).astype(np.dtype(description.dtype).newbyteorder("<"))
    if not np.isfinite(stored).all():
        wider = ": store them as they are (--dtype fp32)" if description.dtype == "float16" else ""
        raise UsageError(f"{path} holds numbers that {description.dtype} cannot hold{wider}")
    return stored


def _reduced(array: NDArray[np.generic], reduce: str | None, path: Path) -> NDArray[np.generic]:
    if reduce is None:
        return array
    if array.ndim != 2:
        raise UsageError(f"{path} holds {array.shape}, no rows to reduce: leave out --reduce")
    if reduce == "mean":
        return array.mean(axis=0, dtype=np.float64)  # type: ignore[no-any-return,call-overload]
    return array[segment_centres(len(array), int(reduce.partition(":")[2]))]


def _check(
    store: FeatureStore, files: Files, description: ImportDescription, passed: Callable[[int], object]
) -> list[tuple[Clip, Path]]:
    """Read every file. Returns those whose clips are not in the cache."""
    found = store.lookup(ClipQuery([clip for clip, _ in files]))
    for number in np.unique(found.shard[found.outcome == DONE]).tolist():
        rows = read_rows(found.shards[number], store.spec)
        for index in np.flatnonzero((found.outcome == DONE) & (found.shard == number)).tolist():
            clip, path = files[index]
            if not np.array_equal(_one(path, store.spec, description), rows[found.row[index]]):
                raise UsageError(
                    f"{path} holds other numbers than '{store.spec.name}' has for '{clip.clip_id}' already: remove the "
                    "feature first (avfuse features remove), or take another --name"
                )
            passed(2)
    new = [files[index] for index in np.flatnonzero(found.outcome != DONE).tolist()]
    for _, path in new:
        _one(path, store.spec, description)
        passed(1)
    return new


def _commit(store: FeatureStore, new: Files, description: ImportDescription, passed: Callable[[int], object]) -> int:
    """Returns how many clips' media files are not there."""
    size = max(1, min(CHUNK_CLIPS, CHUNK_BYTES // store.spec.bytes_per_clip))
    software = {name: version for name, version in software_versions().items() if name in ("avfuse", "numpy")}
    without_media = 0
    for first in range(0, len(new), size):
        result = ChunkResult(store.spec, software=software)
        for clip, path in new[first : first + size]:
            print_ = fingerprint(clip.path)
            without_media += print_.size < 0
            result.done.append((clip, print_))
            result.data.append(_one(path, store.spec, description))
        store.commit(result)
        passed(len(result.done))
    return without_media


def _one(path: Path, spec: FeatureSpec, description: ImportDescription) -> NDArray[np.generic]:
    """One clip's array, of the shape that all have."""
    array = read_array(path, description)
    if array.shape == spec.shape:
        return array
    wayout = "one feature has one shape"
    if len(array.shape) == len(spec.shape) == 2 and array.shape[1] == spec.shape[1]:
        wayout = "make their numbers of rows equal with --reduce mean or --reduce uniform:N"
    raise UsageError(f"{path} gives {array.shape}, the first file {spec.shape}: {wayout}")


def _refuse_variants(cache: Path, collection: str, spec: FeatureSpec) -> None:
    for feature in cached_features(cache, collection):
        there = feature.spec
        if there is not None and there.name == spec.name and there.key != spec.key:
            raise UsageError(
                f"'{spec.name}' is in the cache already with another description, shape, reduction or dtype "
                f"({feature.name}): remove it first (avfuse features remove), or take another --name"
            )


def _lies_in(folder: Path, path: Path) -> bool:
    """As it is written."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _check_pattern(pattern: str) -> str:
    places = _PLACE.findall(pattern)
    if not pattern.endswith(".npy") or not places or not set(places) <= {"clip_id", "stem"}:
        raise UsageError(
            f"--pattern {pattern}: it ends in .npy and holds {{clip_id}} or {{stem}}, as '{{stem}}_rgb.npy'"
        )
    return pattern


def _places(folder: Path, patterns: Sequence[str], clip: Clip) -> list[Path]:
    values = {"clip_id": clip.clip_id, "stem": clip.path.stem}
    return [folder / _PLACE.sub(lambda match: values[match[1]], pattern) for pattern in patterns]
