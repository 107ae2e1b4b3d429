"""From a manifest's clips to committed shards."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
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
from features.inputs import NoAudio
from features.spec import FeatureSpec, InputSpec
from stages.device import choose_device
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
    notes: dict[str, tuple[str, ...]] = {}
    if plan.jobs:
        device = choose_device(device)
        workers = workers or os.cpu_count() or 1
        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=plan.jobs, unit="clip", desc="extract", disable=not progress))
            pool = stack.enter_context(DecodePool(workers, [spec.input for spec in specs], limits=limits))
            encoders = {name: backbones.get(name).load(device) for name in sorted({s.model.backbone for s in specs})}
            batch_images = CPU_BATCH_IMAGES if device == "cpu" else GPU_BATCH_IMAGES
            failures = 0
            prints: deque[Fingerprint] = deque()
            prepared = pool.prepare(_asked(plan, stores, prints))  # of all chunks: the next is decoded meanwhile
            for chunk in plan.chunks:
                for clip, failed in _run_chunk(chunk, stores, prepared, prints, encoders, batch_images):
                    if clip.notes:
                        notes[clip.clip.clip_id] = clip.notes
                    failures += failed
                    bar.set_postfix(failed=failures, refresh=False)
                    bar.update()
    summary = summarise(stores, clips, plan.jobs)
    summary.notes = notes
    return summary


def _asked(
    plan: Plan, stores: Sequence[FeatureStore], prints: "deque[Fingerprint]"
) -> Iterator[tuple[Clip, list[InputSpec]]]:
    """Every clip with the inputs it lacks. Its file is fingerprinted before it is decoded: replaced meanwhile, it no
    longer matches and is planned again."""
    for chunk in plan.chunks:
        for job in chunk:
            prints.append(fingerprint(job.clip.path))
            yield job.clip, [stores[position].spec.input for position in job.lacks]


def _run_chunk(
    jobs: Sequence[Job],
    stores: Sequence[FeatureStore],
    prepared: Iterator[Prepared],
    prints: "deque[Fingerprint]",
    encoders: dict[str, Encoder],
    batch_images: int,
) -> Iterator[tuple[Prepared, bool]]:
    """Work one chunk and commit one shard per feature. Yields every clip, and whether anything of it failed."""
    rows = _Rows(len(jobs), stores)
    batchers = {
        (spec.model.backbone, spec.input.preprocess.crop): Batcher(
            encoders[spec.model.backbone], spec.input.preprocess.crop, batch_images
        )
        for spec in (store.spec for store in stores)
    }
    for index, clip in enumerate(islice(prepared, len(jobs))):
        yield clip, _send(index, jobs[index], clip, rows, stores, batchers)
    of_these = [prints.popleft() for _ in jobs]
    for batcher in batchers.values():
        batcher.flush()
    for position, store in enumerate(stores):
        result = ChunkResult(store.spec)
        for index, (job, print_) in enumerate(zip(jobs, of_these, strict=True)):
            if position not in job.lacks:
                continue
            outcome = rows.outcomes[position].get(index)
            if isinstance(outcome, NoAudio):
                result.no_audio.append((job.clip, print_))
            elif isinstance(outcome, ClipError):
                attempts = job.attempts[job.lacks.index(position)] + 1
                result.failed.append((job.clip, print_, Failure(outcome.stage, outcome.message, attempts)))
            else:
                result.done.append((job.clip, print_))
                result.data.append(rows.data[position][index])
        if result.clip_ids:
            store.commit(result)


class _Rows:
    """The chunk's features as they come in: data[position] (clips, *shape), and outcomes other than data."""

    def __init__(self, clips: int, stores: Sequence[FeatureStore]) -> None:
        self.data = [np.full((clips, *store.spec.shape), np.nan, dtype=np.float32) for store in stores]
        self.outcomes: list[dict[int, NoAudio | ClipError]] = [{} for _ in stores]


def _send(
    index: int,
    job: Job,
    prepared: Prepared,
    rows: _Rows,
    stores: Sequence[FeatureStore],
    batchers: dict[tuple[str, int], Batcher],
) -> bool:
    """Hand a prepared clip's pixels to the encoders. Returns whether any input failed."""
    failed = False
    for position, outcome in zip(job.lacks, prepared.outcomes, strict=True):
        if not isinstance(outcome, np.ndarray):
            rows.outcomes[position][index] = outcome
            failed |= isinstance(outcome, ClipError)
            continue
        spec = stores[position].spec
        side = spec.input.preprocess.crop
        batcher = batchers[spec.model.backbone, side]
        targets = rows.data[position][index].reshape(-1, spec.shape[-1])
        for image, target in zip(outcome.reshape(-1, side, side, 3), targets, strict=True):
            batcher.add(image, target)
    return failed


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
