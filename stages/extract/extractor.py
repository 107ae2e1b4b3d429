"""`Extractor`: the networks of one device and the decode processes that feed them, chunk after chunk."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from avfuse.features import backbones
from avfuse.features.backbones import WeightsChoice
from avfuse.features.backbones.loading import Encoder, load
from avfuse.features.cache import FeatureStore, fingerprint
from avfuse.features.cache.claims import Claim, Claims, claim_id
from avfuse.features.cache.fingerprint import Fingerprint
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import PUBLISHED
from avfuse.features.spec import AnyInput, FeatureSpec, ImageInput
from avfuse.stages.extract.cached_images import CachedImages
from avfuse.stages.extract.chunk import ChunkEncoder, Network
from avfuse.stages.extract.plan import Chunk, ClipJob, remaining_jobs
from avfuse.stages.extract.pool import DEFAULT_LIMITS, DecodePool, Limits


@dataclass(frozen=True)
class ExtractionJob:
    """Everything about an extraction except its clips."""

    specs: tuple[FeatureSpec, ...]
    cache: Path
    collection: str
    known_shards: tuple[frozenset[str], ...]
    """Names of the shards that each feature had when the clips were planned; newer ones are other runs'."""
    weights: WeightsChoice = PUBLISHED
    limits: Limits = DEFAULT_LIMITS

    def stores(self) -> list[FeatureStore]:
        return [FeatureStore(self.cache, self.collection, spec) for spec in self.specs]


@dataclass(frozen=True)
class ProcessedClip:
    """A clip that was processed, with its warnings."""

    clip_id: str
    notes: tuple[str, ...]
    failed: bool
    """Whether any of its features failed."""


@dataclass(frozen=True)
class Progress:
    """Outcome of a chunk, or of a part of it."""

    clips: tuple[ProcessedClip, ...] = ()
    done_elsewhere: int = 0
    """Clips that other runs have committed since they were planned."""
    postponed: tuple[ClipJob, ...] = ()
    """Features that other runs have claimed."""
    finished: bool = False
    """Whether the chunk is committed."""


@dataclass
class ClaimedChunk:
    """A chunk being processed: the jobs that this run has claimed."""

    jobs: tuple[ClipJob, ...]
    claim: Claim | None
    done_elsewhere: int
    postponed: tuple[ClipJob, ...]
    fingerprints: list[Fingerprint] = field(default_factory=list)
    """Fingerprints of the clips' files, each added before its clip is decoded."""

    def release(self) -> None:
        if self.claim is not None:
            self.claim.release()

    def finish(self) -> Progress:
        self.release()
        return Progress(done_elsewhere=self.done_elsewhere, postponed=self.postponed, finished=True)


class Extractor:
    """The networks and decode processes of one device, kept from chunk to chunk. Use as a context manager."""

    def __init__(self, extraction: ExtractionJob, device: str, workers: int) -> None:
        """Load the networks and start `workers` decode processes. Raises UsageError when a backbone's weights are not
        those that a spec names."""
        self._extraction = extraction
        self._device = device
        self._stores = extraction.stores()
        self._images = CachedImages(extraction.cache, extraction.collection, extraction.specs)
        self._claims = Claims(extraction.cache, extraction.collection)
        self._pool = DecodePool(workers, distinct_inputs(extraction.specs), limits=extraction.limits)
        try:
            self._encoders = _load_encoders(extraction.specs, extraction.weights, device)
        except BaseException:
            self._pool.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Progress]:
        """Process and commit chunks in order, and decode the next one meanwhile. Yields progress per clip, and one more
        at the end of every chunk."""
        claimed: deque[ClaimedChunk] = deque()
        prepared = self._pool.prepare(self._decode_requests(chunks, claimed))
        try:
            while (first := next(prepared, None)) is not None:
                while not claimed[0].jobs:
                    yield claimed.popleft().finish()
                chunk = claimed[0]
                encoder = ChunkEncoder(chunk.jobs, self._stores, self._encoders, self._device)
                for clip, failed in encoder.run(chain([first], prepared), chunk.fingerprints, self._images):
                    yield Progress((ProcessedClip(clip.clip.clip_id, clip.notes, failed),))
                yield claimed.popleft().finish()
            while claimed:
                yield claimed.popleft().finish()
        finally:
            for chunk in claimed:
                chunk.release()

    def _decode_requests(
        self, chunks: Iterable[Chunk], claimed: "deque[ClaimedChunk]"
    ) -> Iterator[tuple[Clip, list[AnyInput]]]:
        """Claim chunks, append them to `claimed`, and yield per clip the inputs of its missing features that are not
        cached as audio images.

        A file is fingerprinted before it is decoded: if it is replaced meanwhile, the row does not match it, and the
        clip is planned again.
        """
        for planned in chunks:
            chunk = self._claim(planned)
            claimed.append(chunk)
            cached = self._images.known([job.clip for job in chunk.jobs])
            for index, job in enumerate(chunk.jobs):
                chunk.fingerprints.append(fingerprint(job.clip.path))
                inputs = distinct_inputs(self._extraction.specs[position] for position in job.missing)
                yield job.clip, [needed for needed in inputs if not _is_cached(needed, cached, index)]

    def _claim(self, chunk: Chunk) -> ClaimedChunk:
        """Claim the features that no other run has claimed, except those that one has committed since."""
        pairs = [(position, job) for job in chunk for position in job.missing]
        keys = [spec.key for spec in self._extraction.specs]
        is_ours, claim = self._claims.acquire([claim_id(keys[position], job.clip) for position, job in pairs])
        busy = {(position, job.clip.clip_id) for (position, job), ours in zip(pairs, is_ours, strict=True) if not ours}
        claimed, postponed = (_select_features(chunk, busy, elsewhere) for elsewhere in (False, True))
        jobs = remaining_jobs(self._stores, claimed, self._extraction.known_shards)
        open_ids = {job.clip.clip_id for job in (*jobs, *postponed)}
        return ClaimedChunk(jobs, claim, len(chunk) - len(open_ids), postponed)


def _select_features(chunk: Chunk, busy: Set[tuple[int, str]], elsewhere: bool) -> tuple[ClipJob, ...]:
    """The features of a chunk that are in `busy` (position, clip id), or, without `elsewhere`, the others."""
    jobs = []
    for job in chunk:
        selected = [
            (position, attempts)
            for position, attempts in zip(job.missing, job.attempts, strict=True)
            if ((position, job.clip.clip_id) in busy) == elsewhere
        ]
        if selected:
            positions, attempts = zip(*selected, strict=True)
            jobs.append(ClipJob(job.clip, positions, attempts))
    return tuple(jobs)


def _is_cached(needed: AnyInput, cached: Mapping[ImageInput, NDArray[np.bool_]], index: int) -> bool:
    return isinstance(needed, ImageInput) and needed.as_drawn in cached and bool(cached[needed.as_drawn][index])


def _load_encoders(specs: Sequence[FeatureSpec], choice: WeightsChoice, device: str) -> dict[Network, Encoder]:
    """Load each network once. Raises UsageError when its weights are not those that the specs name."""
    encoders: dict[Network, Encoder] = {}
    for spec in specs:
        if spec.model is None or Network.of(spec) in encoders:
            continue
        network = Network.of(spec)
        backbone = backbones.get_backbone(network.backbone)
        weights = choice.weights_for(backbone.name, backbone.checkpoints)
        if weights.sha256 != spec.model.checkpoint:
            raise UsageError(f"the weights of {backbone.name} were replaced during the run: start it again")
        encoders[network] = load(backbone, weights, device, network.precision)
    return encoders


def distinct_inputs(specs: Iterable[FeatureSpec]) -> list[AnyInput]:
    """The inputs of features, each once: several backbones, and views, share an input."""
    return list(dict.fromkeys(spec.input for spec in specs))
