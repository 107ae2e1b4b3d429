"""From a manifest's clips to committed shards."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from features import backbones
from features.backbones import Encoder
from features.cache import ChunkResult, Failure, FeatureStore, fingerprint
from features.cache.fingerprint import Fingerprint
from features.clips import Clip
from features.errors import ClipError
from features.inputs import NoAudio, Outcome
from features.spec import AnyInput, FeatureSpec, ImageInput
from stages.device import choose_device
from stages.extract.drawn import DrawnImages, Pictures, turned
from stages.extract.encode import CPU_BATCH_IMAGES, GPU_BATCH_IMAGES, Batcher
from stages.extract.plan import Job, Plan, make_plan
from stages.extract.pool import DEFAULT_LIMITS, DecodePool, Limits, Prepared


@dataclass
class FeatureSummary:
    """How one feature of one manifest stands after the run, in clips."""

    spec: FeatureSpec
    folder: Path
    done: int = 0
    no_audio: int = 0
    failed: int = 0


@dataclass
class ExtractSummary:
    """`new`: clips worked on in this run. `problems`: clip id -> what is wrong with it, each reason once, in the
    manifest's order. `notes`: clip id -> what this run noticed of a clip that was used all the same."""

    new: int
    features: list[FeatureSummary]
    problems: dict[str, list[str]] = field(default_factory=dict)
    no_audio: list[str] = field(default_factory=list)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)


def extract(
    clips: Sequence[Clip],
    specs: Sequence[FeatureSpec],
    cache: Path,
    collection: str,
    *,
    device: str = "auto",
    workers: int | None = None,
    retry_failed: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: bool = True,
) -> ExtractSummary:
    """Bring every asked feature of every clip into the cache; what is there already is not done again.

    A broken clip becomes a failure row and the run goes on. Raises UsageError for a device that is not there.
    """
    stores = [FeatureStore(cache, collection, spec) for spec in specs]
    plan = make_plan(stores, clips, retry_failed)
    drawn = DrawnImages(cache, collection, specs)
    notes: dict[str, tuple[str, ...]] = {}
    if plan.jobs:
        device = choose_device(device)
        workers = workers or os.cpu_count() or 1
        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=plan.jobs, unit="clip", desc="extract", disable=not progress))
            pool = stack.enter_context(DecodePool(workers, _distinct(specs), limits=limits))
            names = sorted({spec.model.backbone for spec in specs if spec.model is not None})
            encoders = {name: backbones.get(name).load(device) for name in names}
            batch_images = CPU_BATCH_IMAGES if device == "cpu" else GPU_BATCH_IMAGES
            failures = 0
            prints: deque[Fingerprint] = deque()
            prepared = pool.prepare(_asked(plan, specs, drawn, prints))  # of all chunks: the next is decoded meanwhile
            for chunk in plan.chunks:
                work = _Chunk(chunk, stores, encoders, batch_images)
                for clip, failed in work.run(prepared, prints, drawn):
                    if clip.notes:
                        notes[clip.clip.clip_id] = clip.notes
                    failures += failed
                    bar.set_postfix(failed=failures, refresh=False)
                    bar.update()
    summary = summarise(stores, clips, plan.jobs)
    summary.notes = notes
    return summary


def _distinct(specs: Iterable[FeatureSpec]) -> list[AnyInput]:
    """What the features are made from, each once: several backbones, and views, share an input."""
    return list(dict.fromkeys(spec.input for spec in specs))


def _asked(
    plan: Plan, specs: Sequence[FeatureSpec], drawn: DrawnImages, prints: "deque[Fingerprint]"
) -> Iterator[tuple[Clip, list[AnyInput]]]:
    """Every clip with the inputs that its missing features need and that are not in the cache as pictures. Its file is
    fingerprinted before it is decoded: replaced meanwhile, it no longer matches and is planned again."""
    for chunk in plan.chunks:
        for job in chunk:
            prints.append(fingerprint(job.clip.path))
            needed = _distinct(specs[position] for position in job.lacks)
            yield job.clip, [each for each in needed if not drawn.has(each, job.clip)]


class _Chunk:
    """The features of one chunk's clips as they come in, committed as one shard per feature."""

    def __init__(
        self, jobs: Sequence[Job], stores: Sequence[FeatureStore], encoders: dict[str, Encoder], batch_images: int
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._data = {
            position: np.full((len(jobs), *store.spec.shape), np.nan, dtype=np.float32)
            for position, store in enumerate(stores)
            if store.spec.model is not None
        }
        self._outcomes: list[dict[int, Outcome]] = [{} for _ in stores]  # what is not in `_data`
        self._batchers = {
            (spec.model.backbone, spec.preprocess): Batcher(
                encoders[spec.model.backbone], spec.preprocess, batch_images
            )
            for spec in (store.spec for store in stores)
            if spec.model is not None and spec.preprocess is not None
        }

    def run(
        self, prepared: Iterator[Prepared], prints: "deque[Fingerprint]", drawn: DrawnImages
    ) -> Iterator[tuple[Prepared, bool]]:
        """Take the chunk's clips and commit. Yields every clip, and whether anything of it failed."""
        lacking = {position for job in self._jobs for position in job.lacks}
        wanted = [self._stores[position].spec.input for position in lacking]
        pictures = drawn.load(wanted, [job.clip for job in self._jobs])
        for index, clip in enumerate(islice(prepared, len(self._jobs))):
            yield clip, self._take(index, clip, pictures)
        of_these = [prints.popleft() for _ in self._jobs]
        for batcher in self._batchers.values():
            batcher.flush()
        for position, store in enumerate(self._stores):
            result = self._result(position, of_these)
            if result.clip_ids:
                store.commit(result)

    def _take(self, index: int, prepared: Prepared, pictures: Pictures) -> bool:
        """Hand a prepared clip's pixels to the encoders. Returns whether any input failed."""
        failed = False
        for position in self._jobs[index].lacks:
            spec = self._stores[position].spec
            outcome = prepared.outcomes.get(spec.input)
            if outcome is None:
                assert isinstance(spec.input, ImageInput)
                outcome = pictures.get(spec.input, index, prepared.clip)
            if not isinstance(outcome, np.ndarray):
                self._outcomes[position][index] = outcome
                failed |= isinstance(outcome, ClipError)
                continue
            pixels = turned(outcome, spec.view)
            if spec.model is None or spec.preprocess is None:
                self._outcomes[position][index] = pixels
                continue
            batcher = self._batchers[spec.model.backbone, spec.preprocess]
            targets = self._data[position][index].reshape(-1, spec.shape[-1])
            for image, target in zip(pixels.reshape(-1, *pixels.shape[-3:]), targets, strict=True):
                batcher.add(image, target)
        return failed

    def _result(self, position: int, prints: Sequence[Fingerprint]) -> ChunkResult:
        result = ChunkResult(self._stores[position].spec)
        for index, (job, print_) in enumerate(zip(self._jobs, prints, strict=True)):
            if position not in job.lacks:
                continue
            outcome = self._outcomes[position].get(index)
            if isinstance(outcome, NoAudio):
                result.no_audio.append((job.clip, print_))
            elif isinstance(outcome, ClipError):
                attempts = job.attempts[job.lacks.index(position)] + 1
                result.failed.append((job.clip, print_, Failure(outcome.stage, outcome.message, attempts)))
            else:
                result.done.append((job.clip, print_))
                result.data.append(self._data[position][index] if outcome is None else outcome)
        return result


def summarise(stores: Sequence[FeatureStore], clips: Sequence[Clip], new: int) -> ExtractSummary:
    """Read back from the cache how each feature of these clips stands."""
    summary = ExtractSummary(new=new, features=[FeatureSummary(store.spec, store.folder) for store in stores])
    for clip in clips:
        reasons: dict[str, None] = {}
        silent_stream = False
        for store, counts in zip(stores, summary.features, strict=True):
            row = store.find(clip)
            if row is None:
                continue
            counts.done += row.outcome == "done"
            counts.no_audio += row.outcome == "no_audio"
            counts.failed += row.outcome == "failed"
            silent_stream |= row.outcome == "no_audio"
            if row.failure is not None:
                reasons[f"{row.failure.stage}: {row.failure.message}"] = None
        if reasons:
            summary.problems[clip.clip_id] = list(reasons)
        elif silent_stream:
            summary.no_audio.append(clip.clip_id)
    return summary
