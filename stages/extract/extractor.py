"""One device's networks, and the decode processes that feed them."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from features import backbones
from features.backbones import WeightsChoice
from features.backbones.loading import Encoder, load
from features.cache import FeatureStore, fingerprint
from features.cache.fingerprint import Fingerprint
from features.clips import Clip
from features.errors import UsageError
from features.requests import PUBLISHED
from features.spec import AnyInput, FeatureSpec
from stages.extract.chunk import Chunk, Network
from stages.extract.drawn import DrawnImages
from stages.extract.plan import Job
from stages.extract.pool import DEFAULT_LIMITS, DecodePool, Limits, Prepared


class Extractor:
    """Keeps its networks and its processes from chunk to chunk. Use as a context manager."""

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        cache: Path,
        collection: str,
        device: str,
        workers: int,
        weights: WeightsChoice = PUBLISHED,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Raises UsageError when weights are not the ones that a spec names."""
        self._specs = specs
        self._device = device
        self._stores = [FeatureStore(cache, collection, spec) for spec in specs]
        self._drawn = DrawnImages(cache, collection, specs)
        self._pool = DecodePool(workers, distinct_inputs(specs), limits=limits)
        try:
            self._encoders = _load(specs, weights, device)
        except BaseException:
            self._pool.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def run(self, chunks: Iterable[Sequence[Job]]) -> Iterator[tuple[Prepared, bool]]:
        """Bring chunks into the cache, each as it is complete; clips of the next are decoded meanwhile. Yields every
        clip, and whether anything of it failed."""
        chunks = list(chunks)
        prints: deque[Fingerprint] = deque()
        prepared = self._pool.prepare(_asked(chunks, self._specs, self._drawn, prints))
        for jobs in chunks:
            yield from Chunk(jobs, self._stores, self._encoders, self._device).run(prepared, prints, self._drawn)


def _load(specs: Sequence[FeatureSpec], choice: WeightsChoice, device: str) -> dict[Network, Encoder]:
    """The networks that the features come from. Raises UsageError when a file is not the one named."""
    encoders: dict[Network, Encoder] = {}
    for spec in specs:
        if spec.model is None or Network.of(spec) in encoders:
            continue
        network = Network.of(spec)
        backbone = backbones.get(network.backbone)
        found = choice.of(backbone.name, backbone.checkpoints)
        if found.sha256 != spec.model.checkpoint:
            raise UsageError(f"the weights of {backbone.name} were replaced meanwhile: start again")
        encoders[network] = load(backbone, found, device, network.precision)
    return encoders


def distinct_inputs(specs: Iterable[FeatureSpec]) -> list[AnyInput]:
    """What the features are made from, each once: several backbones, and views, share an input."""
    return list(dict.fromkeys(spec.input for spec in specs))


def _asked(
    chunks: Iterable[Sequence[Job]], specs: Sequence[FeatureSpec], drawn: DrawnImages, prints: "deque[Fingerprint]"
) -> Iterator[tuple[Clip, list[AnyInput]]]:
    """Every clip with the inputs that its missing features need and that are not in the cache as pictures. Its file is
    fingerprinted before it is decoded: replaced meanwhile, it no longer matches and is planned again."""
    for chunk in chunks:
        for job in chunk:
            prints.append(fingerprint(job.clip.path))
            needed = distinct_inputs(specs[position] for position in job.lacks)
            yield job.clip, [each for each in needed if not drawn.has(each, job.clip)]
