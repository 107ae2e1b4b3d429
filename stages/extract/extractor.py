"""One device's networks, and the decode processes that feed them."""

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
from avfuse.stages.extract import chunk as one_chunk
from avfuse.stages.extract.cached_images import CachedImages
from avfuse.stages.extract.chunk import Network
from avfuse.stages.extract.plan import Chunk, ClipJob, remaining_jobs
from avfuse.stages.extract.pool import DEFAULT_LIMITS, DecodePool, Limits


@dataclass(frozen=True)
class ExtractionJob:
    """All that an extraction is, but for the clips. known_shards: names of the shards that each feature had when the
    clips were planned; what came since was committed by other runs."""

    specs: tuple[FeatureSpec, ...]
    cache: Path
    collection: str
    known_shards: tuple[frozenset[str], ...]
    weights: WeightsChoice = PUBLISHED
    limits: Limits = DEFAULT_LIMITS

    def stores(self) -> list[FeatureStore]:
        return [FeatureStore(self.cache, self.collection, spec) for spec in self.specs]


@dataclass(frozen=True)
class ProcessedClip:
    """A clip that was worked on: what a user should know of it, and whether anything of it failed."""

    clip_id: str
    notes: tuple[str, ...]
    failed: bool


@dataclass(frozen=True)
class Progress:
    """What came of a chunk, or of a part of it. done_elsewhere: clips that another run brought into the cache
    meanwhile. postponed: what other runs have in work now. finished: the chunk is in the cache."""

    seen: tuple[ProcessedClip, ...] = ()
    done_elsewhere: int = 0
    postponed: tuple[ClipJob, ...] = ()
    finished: bool = False


@dataclass
class ClaimedChunk:
    """A chunk that is in work: what of it is ours to do."""

    jobs: tuple[ClipJob, ...]
    claim: Claim | None
    done_elsewhere: int
    postponed: tuple[ClipJob, ...]
    prints: list[Fingerprint] = field(default_factory=list)

    def release(self) -> None:
        if self.claim is not None:
            self.claim.release()


class Extractor:
    """Keeps its networks and its processes from chunk to chunk. Use as a context manager."""

    def __init__(self, extraction: ExtractionJob, device: str, workers: int) -> None:
        """Raises UsageError when weights are not the ones that a spec names."""
        self._extraction = extraction
        self._device = device
        self._stores = extraction.stores()
        self._drawn = CachedImages(extraction.cache, extraction.collection, extraction.specs)
        self._claims = Claims(extraction.cache, extraction.collection)
        self._pool = DecodePool(workers, distinct_inputs(extraction.specs), limits=extraction.limits)
        try:
            self._encoders = _load(extraction.specs, extraction.weights, device)
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
        """Bring chunks into the cache, each as it is complete; clips of the next are decoded meanwhile. Yields every
        clip as it is seen, and every chunk's end, in the order given."""
        taken: deque[ClaimedChunk] = deque()
        prepared = self._pool.prepare(self._pending_inputs(chunks, taken))
        try:
            while (first := next(prepared, None)) is not None:
                while not taken[0].jobs:
                    yield _end(taken.popleft())
                now = taken[0]
                clips = one_chunk.Chunk(now.jobs, self._stores, self._encoders, self._device)
                for clip, failed in clips.run(chain([first], prepared), now.prints, self._drawn):
                    yield Progress((ProcessedClip(clip.clip.clip_id, clip.notes, failed),))
                yield _end(taken.popleft())
            while taken:
                yield _end(taken.popleft())
        finally:
            for each in taken:
                each.release()

    def _pending_inputs(
        self, chunks: Iterable[Chunk], taken: "deque[ClaimedChunk]"
    ) -> Iterator[tuple[Clip, list[AnyInput]]]:
        """Every clip with the inputs that its missing features need and that are not in the cache as pictures. Its file
        is fingerprinted before it is decoded: replaced meanwhile, it no longer matches and is planned again."""
        for chunk in chunks:
            now = self._claim(chunk)
            taken.append(now)
            drawn = self._drawn.known([job.clip for job in now.jobs])
            for index, job in enumerate(now.jobs):
                now.prints.append(fingerprint(job.clip.path))
                needed = distinct_inputs(self._extraction.specs[position] for position in job.missing)
                yield job.clip, [each for each in needed if not _is_cached(each, drawn, index)]

    def _claim(self, chunk: Chunk) -> ClaimedChunk:
        """Claim what of a chunk nobody else has in work, and of that leave out what somebody has done since."""
        pairs = [(position, job) for job in chunk for position in job.missing]
        keys = [spec.key for spec in self._extraction.specs]
        free, claim = self._claims.acquire([claim_id(keys[position], job.clip) for position, job in pairs])
        busy = {(position, job.clip.clip_id) for (position, job), ours in zip(pairs, free, strict=True) if not ours}
        ours, postponed = (_jobs_in_work(chunk, busy, elsewhere) for elsewhere in (False, True))
        lacking = remaining_jobs(self._stores, ours, self._extraction.known_shards)
        left = {job.clip.clip_id for job in (*lacking, *postponed)}
        return ClaimedChunk(lacking, claim, len(chunk) - len(left), postponed)


def _jobs_in_work(chunk: Chunk, busy: Set[tuple[int, str]], elsewhere: bool) -> tuple[ClipJob, ...]:
    """Of a chunk, what other runs have in work, or the rest."""
    jobs = []
    for job in chunk:
        kept = [
            (position, before)
            for position, before in zip(job.missing, job.attempts, strict=True)
            if ((position, job.clip.clip_id) in busy) == elsewhere
        ]
        if kept:
            positions, attempts = zip(*kept, strict=True)
            jobs.append(ClipJob(job.clip, positions, attempts))
    return tuple(jobs)


def _is_cached(taken: AnyInput, drawn: Mapping[ImageInput, NDArray[np.bool_]], index: int) -> bool:
    return isinstance(taken, ImageInput) and taken.as_drawn in drawn and bool(drawn[taken.as_drawn][index])


def _end(taken: ClaimedChunk) -> Progress:
    taken.release()
    return Progress(done_elsewhere=taken.done_elsewhere, postponed=taken.postponed, finished=True)


def _load(specs: Sequence[FeatureSpec], choice: WeightsChoice, device: str) -> dict[Network, Encoder]:
    """The networks that the features come from. Raises UsageError when a file is not the one named."""
    encoders: dict[Network, Encoder] = {}
    for spec in specs:
        if spec.model is None or Network.of(spec) in encoders:
            continue
        network = Network.of(spec)
        backbone = backbones.get_backbone(network.backbone)
        found = choice.weights_for(backbone.name, backbone.checkpoints)
        if found.sha256 != spec.model.checkpoint:
            raise UsageError(f"the weights of {backbone.name} were replaced meanwhile: start again")
        encoders[network] = load(backbone, found, device, network.precision)
    return encoders


def distinct_inputs(specs: Iterable[FeatureSpec]) -> list[AnyInput]:
    """What the features are made from, each once: several backbones, and views, share an input."""
    return list(dict.fromkeys(spec.input for spec in specs))
