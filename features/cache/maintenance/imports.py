"""Import of features that were computed elsewhere, one NumPy file per clip.

Every file is read and checked before anything is committed, and then read again.
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
_PLACEHOLDER = re.compile(r"\{(.*?)\}")
_NAME = re.compile(r"\w[\w.-]*")
_REDUCE = re.compile(r"mean|uniform:([1-9]\d*)")

Files = Sequence[tuple[Clip, Path]]
Stored = Literal["float16", "float32"]


@dataclass(frozen=True)
class ImportDescription:
    """The user's description of an imported feature. Raises UsageError for an invalid name, text or reduction."""

    name: str
    modality: Literal["video", "audio"]
    text: str  #: the network and the input that it was computed from
    #: `mean` over a clip's rows, `uniform:N` for those at the centres of N equal segments, None for all rows
    reduce: str | None = None
    dtype: Stored = "float16"  #: of the stored rows

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"--name {self.name}: use letters, digits, and . _ - after the first")
        if not self.text.strip():
            raise UsageError("--description is empty: name the network and the input of these features")
        if self.reduce is not None and not _REDUCE.fullmatch(self.reduce):
            raise UsageError(f"--reduce {self.reduce}: write mean, or uniform:N for N evenly spaced rows")

    def spec(self, shape: tuple[int, ...]) -> FeatureSpec:
        """The spec of rows (D,) or (T, D), without a reader, network or weights."""
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
    """The result of an import."""

    spec: FeatureSpec
    folder: Path
    new: int  #: clips that were added
    unchanged: int  #: clips that were cached already, with equal values
    without_media: int  #: new clips whose media file is missing; their rows count until there is one


def find_files(folder: Path, clips: Sequence[Clip], pattern: str | None = None) -> tuple[Files, list[str]]:
    """The file of each clip that has one, and the ids of the other clips, in the clips' order.

    Args:
        folder: where the files are. Symbolic links in it may point anywhere.
        clips: to find files of.
        pattern: a path in the folder that ends in .npy, with `{clip_id}` or `{stem}` (of the media file); by default
            the first of PATTERNS that exists.

    Raises UsageError for a missing folder, an invalid pattern, no file at all, a file of several clips, and a file
    outside the folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name the one with the .npy files")
    patterns = PATTERNS if pattern is None else (_check_pattern(pattern),)
    files: list[tuple[Clip, Path]] = []
    missing: list[str] = []
    owners: dict[Path, str] = {}
    for clip in clips:
        path = next((path for path in _candidates(folder, patterns, clip) if os.path.isfile(path)), None)
        if path is None:
            missing.append(clip.clip_id)
            continue
        if not _is_inside(folder, path):
            raise UsageError(f"{path} of clip '{clip.clip_id}' is outside {folder}: only files inside it are read")
        if path in owners:
            raise UsageError(
                f"{path} would be the file of '{owners[path]}' and of '{clip.clip_id}': name files by {{clip_id}} "
                "(--pattern)"
            )
        owners[path] = clip.clip_id
        files.append((clip, path))
    if not files:
        expected = " or ".join(str(path) for path in _candidates(folder, patterns, clips[0])) if clips else "nothing"
        raise UsageError(f"no clip has a file in {folder}: looked for {expected}; name their pattern (--pattern)")
    return files, missing


def import_files(
    cache: Path,
    collection: str,
    files: Files,
    description: ImportDescription,
    on_progress: Callable[[int], object] = lambda steps: None,
) -> ImportSummary:
    """Import the arrays of some clips, (D,) or (T, D), of one shape after reduction. Clips that are cached with equal
    values are skipped.

    Args:
        cache: the cache folder.
        collection: to import into.
        files: from `find_files`.
        description: of the feature.
        on_progress: called with the number of finished steps; every file has two.

    Raises UsageError, naming the first invalid file: not an array, not finite, outside the dtype's range, of another
    shape than the first file, or other values than the cache; if the feature is cached with another description; and
    while another import of it runs.
    """
    spec = description.spec(read_array(files[0][1], description).shape)
    _check_no_variant(cache, collection, spec)
    claims = Claims(cache, collection)
    free, claim = claims.acquire([claim_id(spec.key, clip) for clip, _ in files])
    try:
        if not free.all():
            raise UsageError(f"another import of '{spec.name}' is under way: wait for it")
        store = FeatureStore(cache, collection, spec)
        new = _check_files(store, files, description, on_progress)
        without_media = _commit(store, new, description, on_progress)
    finally:
        if claim is not None:
            claim.release()
    return ImportSummary(spec, store.folder, len(new), len(files) - len(new), without_media)


def read_array(path: Path, description: ImportDescription) -> NDArray[np.generic]:
    """One clip's array, reduced and in its stored dtype: (D,) or (T, D). Raises UsageError for an invalid file."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise UsageError(f"{path} is not a complete array in NumPy's .npy format ({error})") from error
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or array.size == 0:
        raise UsageError(
            f"{path} holds {array.dtype} {array.shape}: a clip's array must be (D,), or (T, D) with at least one row; "
            "leave the file out if the clip has no feature"
        )
    if not np.isfinite(array).all():
        raise UsageError(f"{path} holds values that are not finite: leave the file out, or compute it again")
    with np.errstate(over="ignore"):
        stored = _reduce(array, description.reduce, path).astype(np.dtype(description.dtype).newbyteorder("<"))
    if not np.isfinite(stored).all():
        advice = ": store them as float32 (--dtype fp32)" if description.dtype == "float16" else ""
        raise UsageError(f"{path} holds values outside the range of {description.dtype}{advice}")
    return stored


def _reduce(array: NDArray[np.generic], reduce: str | None, path: Path) -> NDArray[np.generic]:
    if reduce is None:
        return array
    if array.ndim != 2:
        raise UsageError(f"{path} holds {array.shape}, which has no rows to reduce: leave out --reduce")
    if reduce == "mean":
        return array.mean(axis=0, dtype=np.float64)  # type: ignore[no-any-return,call-overload]
    return array[segment_centres(len(array), int(reduce.partition(":")[2]))]


def _check_files(
    store: FeatureStore, files: Files, description: ImportDescription, on_progress: Callable[[int], object]
) -> list[tuple[Clip, Path]]:
    """Read every file. Returns the files of clips that are not cached."""
    result = store.lookup(ClipQuery([clip for clip, _ in files]))
    for number in np.unique(result.shard[result.outcome == DONE]).tolist():
        rows = read_rows(result.shards[number], store.spec)
        for index in np.flatnonzero((result.outcome == DONE) & (result.shard == number)).tolist():
            clip, path = files[index]
            if not np.array_equal(_read_row(path, store.spec, description), rows[result.row[index]]):
                raise UsageError(
                    f"{path} holds other values than '{store.spec.name}' has for '{clip.clip_id}' already: remove the "
                    "feature first (avfuse features remove), or take another --name"
                )
            on_progress(2)
    new = [files[index] for index in np.flatnonzero(result.outcome != DONE).tolist()]
    for _, path in new:
        _read_row(path, store.spec, description)
        on_progress(1)
    return new


def _commit(
    store: FeatureStore, new: Files, description: ImportDescription, on_progress: Callable[[int], object]
) -> int:
    """Write the shards. Returns the number of clips whose media file is missing."""
    size = max(1, min(CHUNK_CLIPS, CHUNK_BYTES // store.spec.bytes_per_clip))
    software = {name: version for name, version in software_versions().items() if name in ("avfuse", "numpy")}
    without_media = 0
    for first in range(0, len(new), size):
        result = ChunkResult(store.spec, software=software)
        for clip, path in new[first : first + size]:
            media = fingerprint(clip.path)
            without_media += media.size < 0
            result.done.append((clip, media))
            result.data.append(_read_row(path, store.spec, description))
        store.commit(result)
        on_progress(len(result.done))
    return without_media


def _read_row(path: Path, spec: FeatureSpec, description: ImportDescription) -> NDArray[np.generic]:
    """One clip's array. Raises UsageError if it is not of the spec's shape."""
    array = read_array(path, description)
    if array.shape == spec.shape:
        return array
    advice = "one feature has one shape"
    if len(array.shape) == len(spec.shape) == 2 and array.shape[1] == spec.shape[1]:
        advice = "give all the same number of rows with --reduce mean or --reduce uniform:N"
    raise UsageError(f"{path} gives {array.shape}, the first file {spec.shape}: {advice}")


def _check_no_variant(cache: Path, collection: str, spec: FeatureSpec) -> None:
    """Raises UsageError if the feature is cached with another description."""
    for feature in cached_features(cache, collection):
        cached = feature.spec
        if cached is not None and cached.name == spec.name and cached.key != spec.key:
            raise UsageError(
                f"'{spec.name}' is cached already with another description, shape, reduction or dtype "
                f"({feature.name}): remove it first (avfuse features remove), or take another --name"
            )


def _is_inside(folder: Path, path: Path) -> bool:
    """Whether a path is inside a folder, without following links."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _check_pattern(pattern: str) -> str:
    names = _PLACEHOLDER.findall(pattern)
    if not pattern.endswith(".npy") or not names or not set(names) <= {"clip_id", "stem"}:
        raise UsageError(
            f"--pattern {pattern}: it must end in .npy and contain {{clip_id}} or {{stem}}, as '{{stem}}_rgb.npy'"
        )
    return pattern


def _candidates(folder: Path, patterns: Sequence[str], clip: Clip) -> list[Path]:
    values = {"clip_id": clip.clip_id, "stem": clip.path.stem}
    return [folder / _PLACEHOLDER.sub(lambda match: values[match[1]], pattern) for pattern in patterns]
