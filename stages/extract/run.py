"""From a manifest's clips to committed shards."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never

import numpy as np
from tqdm import tqdm

from avfuse.features.backbones import WeightsChoice
from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.claims import Claims, claim_id
from avfuse.features.cache.store import DONE, FAILED, NO_SOUND, LookupResult
from avfuse.features.clips import Clip
from avfuse.features.feature_names import PUBLISHED
from avfuse.features.spec import FeatureSpec
from avfuse.stages.device import choose_devices
from avfuse.stages.extract.cached_images import CachedImages
from avfuse.stages.extract.engine import Engine, LocalEngine
from avfuse.stages.extract.extractor import ExtractionJob
from avfuse.stages.extract.plan import (
    ClipJob,
    ExtractionPlan,
    chunk_size,
    plan_extraction,
    remaining_jobs,
    split_into_chunks,
)
from avfuse.stages.extract.pool import DEFAULT_LIMITS, Limits
from avfuse.threads import available_cores

POLL_SECONDS = 2.0
"""How often a run that waits for another one looks."""


@dataclass
class FeatureSummary:
    """How one feature of one manifest stands after the run, in clips. extra: rows that a second run left, not read."""

    spec: FeatureSpec
    folder: Path
    done: int = 0
    no_audio: int = 0
    failed: int = 0
    extra: int = 0


@dataclass
class ExtractSummary:
    """`new`: clips worked on in this run, `retried` of them had failed before. `elsewhere`: clips that another run
    brought into the cache meanwhile. `problems`: clip id -> what is wrong with it, each reason once, in the manifest's
    order. `notes`: clip id -> what this run noticed of a clip that was used all the same."""

    new: int
    features: list[FeatureSummary]
    retried: int = 0
    elsewhere: int = 0
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
    engine: Engine | None = None,
    retry_failed: bool = False,
    weights: WeightsChoice = PUBLISHED,
    limits: Limits = DEFAULT_LIMITS,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> ExtractSummary:
    """Bring every asked feature of every clip into the cache; what is there already is not done again, and what another
    run has in work is waited for.

    A broken clip becomes a failure row and the run goes on; the next run tries it once more. engine: who does the work,
    by default the devices of this machine, each but a single one in a process of its own. tell: gets a line for what a
    user should know, such as how much the run will write.

    Raises UsageError for a device that is not there and for a damaged shard.
    """
    stores = [FeatureStore(cache, collection, spec) for spec in specs]
    plan = plan_extraction(stores, clips, retry_failed)
    summary = ExtractSummary(new=0, features=[])
    if plan.jobs:
        tell(_disk_estimate(plan, specs, cache))
        extraction = ExtractionJob(tuple(specs), cache.resolve(), collection, plan.shards, weights, limits)
        engine = engine or LocalEngine(choose_devices(device), workers or available_cores())
        with tqdm(total=len(plan.jobs), unit="clip", desc="extract", disable=not progress) as bar:
            _run_chunks(plan.jobs, extraction, engine, summary, bar, tell)
    summary.retried = plan.retried
    _summarise(summary, specs, cache, collection, clips)
    return summary


def _run_chunks(
    jobs: tuple[ClipJob, ...],
    extraction: ExtractionJob,
    engine: Engine,
    summary: ExtractSummary,
    bar: "tqdm[Never]",
    tell: Callable[[str], None],
) -> None:
    """Do what is ours to do, then what other runs had in work and did not finish."""
    drawn = CachedImages(extraction.cache, extraction.collection, extraction.specs)
    seen: set[str] = set()
    failures = 0
    while jobs:
        size = chunk_size(extraction.stores(), len(jobs), engine.devices, drawn.bytes_per_clip)
        postponed: list[ClipJob] = []
        for news in engine.run(extraction, split_into_chunks(jobs, size)):
            postponed += news.postponed
            summary.elsewhere += news.done_elsewhere
            for clip in news.seen:
                if clip.notes:
                    summary.notes[clip.clip_id] = clip.notes
                failures += clip.failed
                bar.update(clip.clip_id not in seen)
                seen.add(clip.clip_id)
            bar.update(news.done_elsewhere)
            bar.set_postfix(failed=failures, refresh=False)
        jobs = tuple(postponed)
        if jobs:
            tell(f"another run has {len(jobs)} of these clips in work: waiting for it")
            left = _wait_for_other_runs(jobs, extraction)
            summary.elsewhere += len(jobs) - len(left)
            bar.update(len(jobs) - len(left))
            jobs = left
    summary.new = len(seen)


def _wait_for_other_runs(jobs: tuple[ClipJob, ...], extraction: ExtractionJob) -> tuple[ClipJob, ...]:
    """Wait until another run has brought some clips into the cache, or has ended without. Returns those it has not."""
    claims = Claims(extraction.cache, extraction.collection)
    stores = extraction.stores()
    while True:
        in_work = set(claims.claimed_ids().tolist())
        jobs = remaining_jobs(stores, jobs, extraction.known_shards)
        if not any(
            claim_id(extraction.specs[position].key, job.clip) in in_work for job in jobs for position in job.missing
        ):
            return jobs
        time.sleep(POLL_SECONDS)


def _disk_estimate(plan: ExtractionPlan, specs: Sequence[FeatureSpec], cache: Path) -> str:
    """How much the run writes at most: clips without sound write less."""
    need = sum(specs[position].bytes_per_clip for job in plan.jobs for position in job.missing)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    warning = "" if need < free else ": make room, or name another place with --cache"
    again = f", {plan.retried} of which failed before," if plan.retried else ""
    return f"to write: up to {_size(need)} for {len(plan.jobs)} clips{again} into {cache} ({_size(free)} free){warning}"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _summarise(
    summary: ExtractSummary, specs: Sequence[FeatureSpec], cache: Path, collection: str, clips: Sequence[Clip]
) -> None:
    """Read back from the cache how each feature of these clips stands."""
    asked = ClipQuery(clips)
    stores = [FeatureStore(cache, collection, spec) for spec in specs]
    every = [store.lookup(asked) for store in stores]
    for store, found in zip(stores, every, strict=True):
        done, no_audio, failed = (int((found.outcome == outcome).sum()) for outcome in (DONE, NO_SOUND, FAILED))
        summary.features.append(FeatureSummary(store.spec, store.folder, done, no_audio, failed, found.extra))
    outcomes = np.stack([found.outcome for found in every], axis=1)
    for index in np.flatnonzero(np.isin(outcomes, (NO_SOUND, FAILED)).any(axis=1)).tolist():
        reasons = dict.fromkeys(_reasons(every, index))
        if reasons:
            summary.problems[clips[index].clip_id] = list(reasons)
        else:
            summary.no_audio.append(clips[index].clip_id)
    summary.notes = {clip.clip_id: summary.notes[clip.clip_id] for clip in clips if clip.clip_id in summary.notes}


def _reasons(every: Sequence[LookupResult], index: int) -> list[str]:
    failures = [found.failure(index) for found in every if found.outcome[index] == FAILED]
    return [f"{failure.stage}: {failure.message}" for failure in failures]
