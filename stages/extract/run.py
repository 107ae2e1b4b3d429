"""From a manifest's clips to committed shards."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from features import backbones
from features.backbones import WeightsChoice
from features.backbones.loading import Encoder, load
from features.cache import ChunkResult, Failure, FeatureStore, fingerprint
from features.cache.fingerprint import Fingerprint
from features.clips import Clip
from features.errors import ClipError, UsageError
from features.inputs import NoAudio, Outcome, dtype_of
from features.requests import PUBLISHED, token_grid
from features.spec import AnyInput, FeatureSpec, FilterBankInput, ImageInput, Preprocess, View
from stages.device import choose_device
from stages.extract.drawn import DrawnImages, Pictures, turned
from stages.extract.encode import (
    CPU_BATCH_CLIPS,
    CPU_BATCH_IMAGES,
    GPU_BATCH_CLIPS,
    GPU_BATCH_IMAGES,
    Batcher,
    Layout,
    Target,
)
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
    weights: WeightsChoice = PUBLISHED,
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
            encoders = _load(specs, weights, device)
            failures = 0
            prints: deque[Fingerprint] = deque()
            prepared = pool.prepare(_asked(plan, specs, drawn, prints))  # of all chunks: the next is decoded meanwhile
            for chunk in plan.chunks:
                work = _Chunk(chunk, stores, encoders, device)
                for clip, failed in work.run(prepared, prints, drawn):
                    if clip.notes:
                        notes[clip.clip.clip_id] = clip.notes
                    failures += failed
                    bar.set_postfix(failed=failures, refresh=False)
                    bar.update()
    summary = summarise(stores, clips, plan.jobs)
    summary.notes = notes
    return summary


def _load(specs: Sequence[FeatureSpec], choice: WeightsChoice, device: str) -> dict[str, Encoder]:
    """The networks that the features come from, by backbone. Raises UsageError when a file is not the one named."""
    encoders = {}
    for model in dict.fromkeys(spec.model for spec in specs if spec.model is not None):
        backbone = backbones.get(model.backbone)
        found = choice.of(backbone.name, backbone.checkpoints)
        if found.sha256 != model.checkpoint:
            raise UsageError(f"the weights of {backbone.name} were replaced meanwhile: start again")
        encoders[backbone.name] = load(backbone, found, device)
    return encoders


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


class _BatchKey(NamedTuple):
    """What the items of one batch have in common."""

    backbone: str
    preprocess: Preprocess | None
    shape: tuple[int, ...]


def _batch_key(backbone: str, taken: AnyInput) -> _BatchKey:
    preprocess = None if isinstance(taken, FilterBankInput) else taken.preprocess
    return _BatchKey(backbone, preprocess, taken.shape[1:] if taken.kind == "frames" else taken.shape)


def _batch_size(taken: AnyInput, device: str) -> int:
    if taken.kind in ("frames", "image"):
        return CPU_BATCH_IMAGES if device == "cpu" else GPU_BATCH_IMAGES
    return CPU_BATCH_CLIPS if device == "cpu" else GPU_BATCH_CLIPS


class _Chunk:
    """The features of one chunk's clips as they come in, committed as one shard per feature."""

    def __init__(
        self, jobs: Sequence[Job], stores: Sequence[FeatureStore], encoders: dict[str, Encoder], device: str
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._data: dict[int, NDArray[np.float32]] = {}
        self._layouts: dict[int, Layout] = {}
        self._outcomes: list[dict[int, Outcome]] = [{} for _ in stores]  # what is not in `_data`
        self._batchers: dict[_BatchKey, Batcher] = {}
        for position, spec in enumerate(store.spec for store in stores):
            if spec.model is None:
                continue
            name = spec.model.backbone
            self._data[position] = np.full((len(jobs), *spec.shape), np.nan, dtype=np.float32)
            self._layouts[position] = Layout(token_grid(backbones.get(name), spec.input), spec.grid)
            key = _batch_key(name, spec.input)
            if key not in self._batchers:
                self._batchers[key] = Batcher(
                    encoders[name], key.preprocess, key.shape, dtype_of(spec.input), _batch_size(spec.input, device)
                )

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
        """Hand a prepared clip's arrays to the encoders. Returns whether any input failed."""
        failed = False
        together: dict[tuple[str, AnyInput, View], tuple[NDArray[Any], list[int]]] = {}  # a pass through a network each
        for position in self._jobs[index].lacks:
            spec = self._stores[position].spec
            outcome = prepared.outcomes.get(spec.input)
            if outcome is None:
                assert isinstance(spec.input, ImageInput)
                outcome = pictures.get(spec.input, index, prepared.clip)
            if not isinstance(outcome, np.ndarray):
                self._outcomes[position][index] = outcome
                failed |= isinstance(outcome, ClipError)
            elif spec.model is None:
                self._outcomes[position][index] = turned(outcome, spec.view)
            else:
                key = (spec.model.backbone, spec.input, spec.view)
                together.setdefault(key, (turned(outcome, spec.view), []))[1].append(position)
        for (backbone, taken, _), (array, positions) in together.items():
            batcher = self._batchers[_batch_key(backbone, taken)]
            targets = [Target(self._layouts[position], self._data[position][index]) for position in positions]
            if taken.kind == "frames":
                for number, frame in enumerate(array):
                    batcher.add(frame, [Target(each.layout, each.array[number]) for each in targets])
            else:
                batcher.add(array, targets)
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
