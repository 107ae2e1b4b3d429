"""One chunk of clips through the networks and into the cache."""

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
from avfuse.features.inputs.prepare import NoAudio, Outcome, dtype_of
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


class Network(NamedTuple):
    """A backbone as it is loaded: features of one network share its passes."""

    backbone: str
    precision: Precision

    @classmethod
    def of(cls, spec: FeatureSpec) -> "Network":
        assert spec.model is not None, "an input itself comes from no network"
        assert spec.compute != "float64", "networks compute with no such numbers"
        return cls(spec.model.backbone, spec.compute)


class _BatchKey(NamedTuple):
    """What the items of one batch have in common. preprocess: how they are normalised; frames and audio images, at
    their size by now, share batches."""

    network: Network
    preprocess: Preprocess | None
    shape: tuple[int, ...]


def _batch_key(network: Network, taken: AnyInput) -> _BatchKey:
    preprocess = preprocess_of(taken)
    shape = taken.shape[1:] if taken.kind == "frames" else taken.shape
    return _BatchKey(network, preprocess and preprocess.normalisation, shape)


def batch_size(taken: AnyInput, device: str) -> int:
    """Items that a network is given at once."""
    if taken.kind in ("frames", "image"):
        return CPU_BATCH_IMAGES if device == "cpu" else GPU_BATCH_IMAGES
    return CPU_BATCH_CLIPS if device == "cpu" else GPU_BATCH_CLIPS


class Chunk:
    """The features of one chunk's clips as they come in, committed as one shard per feature."""

    def __init__(
        self, jobs: Sequence[ClipJob], stores: Sequence[FeatureStore], encoders: Mapping[Network, Encoder], device: str
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._data: dict[int, NDArray[np.float32]] = {}
        self._layouts: dict[int, OutputLayout] = {}
        self._outcomes: list[dict[int, Outcome]] = [{} for _ in stores]  # what is not in `_data`
        self._batchers: dict[_BatchKey, Batcher] = {}
        for position, spec in enumerate(store.spec for store in stores):
            if spec.model is None:
                continue
            network = Network.of(spec)
            self._data[position] = np.full((len(jobs), *spec.shape), np.nan, dtype=np.float32)
            self._layouts[position] = OutputLayout(
                token_grid(backbones.get_backbone(network.backbone), spec.input), spec.grid
            )
            key = _batch_key(network, spec.input)
            if key not in self._batchers:
                size = batch_size(spec.input, device)
                self._batchers[key] = Batcher(
                    encoders[network], key.preprocess, key.shape, dtype_of(spec.input), size, device
                )

    def run(
        self, prepared: Iterator[PreparedClip], prints: Sequence[Fingerprint], drawn: CachedImages
    ) -> Iterator[tuple[PreparedClip, bool]]:
        """Take the chunk's clips and commit. Yields every clip, and whether anything of it failed.

        prints: of the clips' files; they need be there no earlier than their clips are. What takes long is committed in
        parts, so that an end from outside never costs more than some minutes.
        """
        lacking = {position for job in self._jobs for position in job.missing}
        wanted = [self._stores[position].spec.input for position in lacking]
        pictures = drawn.load(wanted, [job.clip for job in self._jobs])
        first, since = 0, time.monotonic()
        for index, clip in enumerate(islice(prepared, len(self._jobs))):
            yield clip, self._take(index, clip, pictures)
            if time.monotonic() - since > COMMIT_SECONDS:
                self._commit(first, index + 1, prints)
                first, since = index + 1, time.monotonic()
        self._commit(first, len(self._jobs), prints)

    def _commit(self, first: int, end: int, prints: Sequence[Fingerprint]) -> None:
        for batcher in self._batchers.values():
            batcher.flush()
        for position, store in enumerate(self._stores):
            result = self._result(position, range(first, end), prints)
            if result.clip_ids:
                store.commit(result)

    def _take(self, index: int, prepared: PreparedClip, pictures: ImageBatch) -> bool:
        """Hand a prepared clip's arrays to the encoders. Returns whether any input failed."""
        failed = False
        together: dict[
            tuple[Network, AnyInput, View], tuple[NDArray[Any], list[int]]
        ] = {}  # a pass through a network each
        for position in self._jobs[index].missing:
            spec = self._stores[position].spec
            outcome = prepared.outcomes.get(spec.input)
            if outcome is None:
                assert isinstance(spec.input, ImageInput)
                outcome = pictures.get(spec.input, index, prepared.clip)
            if not isinstance(outcome, np.ndarray):
                self._outcomes[position][index] = outcome
                failed |= isinstance(outcome, ClipError)
            elif spec.model is None:
                self._outcomes[position][index] = mirror(outcome, spec.view)
            else:
                key = (Network.of(spec), spec.input, spec.view)
                together.setdefault(key, (mirror(outcome, spec.view), []))[1].append(position)
        for (network, taken, _), (array, positions) in together.items():
            batcher = self._batchers[_batch_key(network, taken)]
            targets = [OutputSlot(self._layouts[position], self._data[position][index]) for position in positions]
            if taken.kind == "frames":
                for number, frame in enumerate(array):
                    batcher.add(frame, [OutputSlot(each.layout, each.array[number]) for each in targets])
            else:
                batcher.add(array, targets)
        return failed

    def _result(self, position: int, part: range, prints: Sequence[Fingerprint]) -> ChunkResult:
        result = ChunkResult(self._stores[position].spec)
        for index in part:
            job, print_ = self._jobs[index], prints[index]
            if position not in job.missing:
                continue
            outcome = self._outcome(position, index)
            if isinstance(outcome, NoAudio):
                result.no_audio.append((job.clip, print_))
            elif isinstance(outcome, ClipError):
                attempts = job.attempts[job.missing.index(position)] + 1
                result.failed.append((job.clip, print_, Failure(outcome.stage, outcome.message, attempts)))
            else:
                result.done.append((job.clip, print_))
                result.data.append(outcome)
        return result

    def _outcome(self, position: int, index: int) -> Outcome:
        """A network's feature as it is stored, or what became of the clip instead."""
        outcome = self._outcomes[position].get(index)
        if outcome is not None:
            return outcome
        spec = self._stores[position].spec
        with np.errstate(over="ignore"):
            stored = self._data[position][index].astype(spec.dtype)
        if not np.isfinite(stored).all():
            return ClipError("encode", f"the network gives numbers that {spec.dtype} cannot hold")
        return stored
