"""`ChunkEncoder`: one chunk of prepared clips through the networks and into the cache."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avfuse.features import backbones
from avfuse.features.backbones.loading import Encoder
from avfuse.features.cache import ChunkResult, Failure, FeatureStore
from avfuse.features.cache.fingerprint import Fingerprint
from avfuse.features.errors import ClipError
from avfuse.features.feature_names import token_grid
from avfuse.features.inputs.prepare import NoAudio, Outcome, input_dtype
from avfuse.features.spec import AnyInput, FeatureSpec, ImageInput, Precision, Preprocess, View, preprocess_of
from avfuse.stages.extract.cached_images import CachedImages, ImageBatch, mirror
from avfuse.stages.extract.encode import (
    CPU_BATCH_CLIPS,
    CPU_BATCH_IMAGES,
    GPU_BATCH_CLIPS,
    GPU_BATCH_IMAGES,
    Batcher,
    OutputLayout,
    OutputSlot,
)
from avfuse.stages.extract.plan import ClipJob
from avfuse.stages.extract.pool import PreparedClip

COMMIT_SECONDS = 300.0
"""A chunk that takes longer is committed in parts, so that a killed run loses no more than this."""


class Network(NamedTuple):
    """A backbone as it is loaded; features of one network share its forward passes."""

    backbone: str
    precision: Precision

    @classmethod
    def of(cls, spec: FeatureSpec) -> "Network":
        assert spec.model is not None, "an input itself comes from no network"
        assert spec.compute != "float64", "networks compute with no such numbers"
        return cls(spec.model.backbone, spec.compute)


class _BatchKey(NamedTuple):
    """Key that the items of one batch share. Frames and audio images of one size share batches."""

    network: Network
    normalisation: Preprocess | None
    shape: tuple[int, ...]
    """Of one item."""


def _batch_key(network: Network, item: AnyInput) -> _BatchKey:
    preprocess = preprocess_of(item)
    shape = item.shape[1:] if item.kind == "frames" else item.shape
    return _BatchKey(network, preprocess and preprocess.normalisation, shape)


def batch_size(item: AnyInput, device: str) -> int:
    """Items per forward pass."""
    if item.kind in ("frames", "image"):
        return CPU_BATCH_IMAGES if device == "cpu" else GPU_BATCH_IMAGES
    return CPU_BATCH_CLIPS if device == "cpu" else GPU_BATCH_CLIPS


class ChunkEncoder:
    """Collects the features of a chunk's clips and commits them as one shard per feature."""

    def __init__(
        self, jobs: Sequence[ClipJob], stores: Sequence[FeatureStore], encoders: Mapping[Network, Encoder], device: str
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._data: dict[int, NDArray[np.float32]] = {}  # by position of the feature, which networks write into
        self._layouts: dict[int, OutputLayout] = {}
        self._outcomes: list[dict[int, Outcome]] = [{} for _ in stores]  # by clip: failures, and features of no network
        self._batchers: dict[_BatchKey, Batcher] = {}
        for position, spec in enumerate(store.spec for store in stores):
            if spec.model is None:
                continue
            network = Network.of(spec)
            self._data[position] = np.full((len(jobs), *spec.shape), np.nan, dtype=np.float32)
            grid = token_grid(backbones.get_backbone(network.backbone), spec.input)
            self._layouts[position] = OutputLayout(grid, spec.grid)
            key = _batch_key(network, spec.input)
            if key not in self._batchers:
                size = batch_size(spec.input, device)
                self._batchers[key] = Batcher(
                    encoders[network], key.normalisation, key.shape, input_dtype(spec.input), size, device
                )

    def run(
        self, prepared: Iterator[PreparedClip], fingerprints: Sequence[Fingerprint], images: CachedImages
    ) -> Iterator[tuple[PreparedClip, bool]]:
        """Encode and commit the chunk. Yields every clip, and whether any of its features failed.

        Args:
            prepared: at least the chunk's clips, in its order.
            fingerprints: of the clips' files; each is read after its clip was taken from `prepared`.
            images: cached audio images, which are not in `prepared`.
        """
        positions = {position for job in self._jobs for position in job.missing}
        batch = images.load(
            [self._stores[position].spec.input for position in positions], [job.clip for job in self._jobs]
        )
        first, committed_at = 0, time.monotonic()
        for index, clip in enumerate(islice(prepared, len(self._jobs))):
            yield clip, self._add(index, clip, batch)
            if time.monotonic() - committed_at > COMMIT_SECONDS:
                self._commit(range(first, index + 1), fingerprints)
                first, committed_at = index + 1, time.monotonic()
        self._commit(range(first, len(self._jobs)), fingerprints)

    def _add(self, index: int, prepared: PreparedClip, images: ImageBatch) -> bool:
        """Give a prepared clip's arrays to the batchers. Returns whether any of its inputs failed."""
        failed = False
        passes: dict[tuple[Network, AnyInput, View], tuple[NDArray[Any], list[int]]] = {}
        for position in self._jobs[index].missing:
            spec = self._stores[position].spec
            outcome = prepared.outcomes.get(spec.input)
            if outcome is None:
                assert isinstance(spec.input, ImageInput)
                outcome = images.get(spec.input, index, prepared.clip)
            if not isinstance(outcome, np.ndarray):
                self._outcomes[position][index] = outcome
                failed |= isinstance(outcome, ClipError)
            elif spec.model is None:
                self._outcomes[position][index] = mirror(outcome, spec.view)
            else:
                key = (Network.of(spec), spec.input, spec.view)
                passes.setdefault(key, (mirror(outcome, spec.view), []))[1].append(position)
        for (network, item, _), (array, positions) in passes.items():
            batcher = self._batchers[_batch_key(network, item)]
            outputs = [OutputSlot(self._layouts[position], self._data[position][index]) for position in positions]
            if item.kind == "frames":
                for number, frame in enumerate(array):
                    batcher.add(frame, [OutputSlot(output.layout, output.array[number]) for output in outputs])
            else:
                batcher.add(array, outputs)
        return failed

    def _commit(self, clips: range, fingerprints: Sequence[Fingerprint]) -> None:
        for batcher in self._batchers.values():
            batcher.flush()
        for position, store in enumerate(self._stores):
            result = self._chunk_result(position, clips, fingerprints)
            if result.clip_ids:
                store.commit(result)

    def _chunk_result(self, position: int, clips: range, fingerprints: Sequence[Fingerprint]) -> ChunkResult:
        """The rows of one feature."""
        result = ChunkResult(self._stores[position].spec)
        for index in clips:
            job, fingerprint = self._jobs[index], fingerprints[index]
            if position not in job.missing:
                continue
            outcome = self._outcome(position, index)
            if isinstance(outcome, NoAudio):
                result.no_audio.append((job.clip, fingerprint))
            elif isinstance(outcome, ClipError):
                attempts = job.attempts[job.missing.index(position)] + 1
                result.failed.append((job.clip, fingerprint, Failure(outcome.stage, outcome.message, attempts)))
            else:
                result.done.append((job.clip, fingerprint))
                result.data.append(outcome)
        return result

    def _outcome(self, position: int, index: int) -> Outcome:
        """A clip's feature in its stored data type, or why there is none."""
        outcome = self._outcomes[position].get(index)
        if outcome is not None:
            return outcome
        spec = self._stores[position].spec
        with np.errstate(over="ignore"):
            stored = self._data[position][index].astype(spec.dtype)
        if not np.isfinite(stored).all():
            return ClipError("encode", f"the network gives numbers that {spec.dtype} cannot hold")
        return stored
