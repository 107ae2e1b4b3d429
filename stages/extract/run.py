"""`extract`: from a manifest's clips to committed shards and a summary."""

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never

import numpy as np
from tqdm import tqdm

from avfuse.features.backbones import WeightsChoice
from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.claims import Claims, claim_id
from avfuse.features.cache.store import DONE, FAILED, NO_SOUND
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
"""Between two looks at the claims of another run."""


@dataclass
class FeatureSummary:
    """State of one feature of the clips in the cache after a run."""

    spec: FeatureSpec
    folder: Path
    """Folder of its shards."""
    done: int = 0
    """Clips with this feature."""
    no_audio: int = 0
    """Clips without an audio stream, if the feature needs one."""
    failed: int = 0
    """Clips that could not be used."""
    extra: int = 0
    """Duplicate rows, which are never read: two runs extracted the same clips."""


@dataclass
class ExtractSummary:
    """Work of a run, and the state of its clips' features."""

    new: int
    """Clips that this run processed."""
    features: list[FeatureSummary]
    """Summaries in the order of the specs."""
    retried: int = 0
    """Clips among these that had failed before."""
    elsewhere: int = 0
    """Clips that other runs committed meanwhile."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Reasons by id of failed clips, in the manifest's order."""
    no_audio: list[str] = field(default_factory=list)
    """Ids of clips without an audio stream."""
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Warnings by id of clips that this run used."""


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
    log: Callable[[str], None] = lambda line: None,
    tell: Callable[[str], None] | None = None,
) -> ExtractSummary:
    """Compute the missing features of clips and commit them to the cache; wait for those that another run is computing.

    A clip that cannot be used is committed as a failure; the next run retries it once.

    Args:
        clips: in the manifest's order.
        specs: the features.
        cache: the folder of manifests and features.
        collection: the name of the clips' media in the cache.
        device: of networks, as `choose_devices` takes it.
        workers: decode processes of all devices together; None: one per core.
        engine: who processes the chunks; None: the devices of this machine.
        retry_failed: whether to retry clips that failed twice.
        weights: what backbones are loaded with.
        limits: the time and memory that one clip may take.
        progress: whether to show a progress bar.
        log: is given lines for the user, such as how much the run will write.
        tell: the old name of `log`, for one release.

    Raises:
        UsageError: a device that this machine lacks, or a damaged shard.
    """
    if tell is not None:
        warnings.warn("extract(tell=...) is extract(log=...) now", FutureWarning, stacklevel=2)
        log = tell
    stores = [FeatureStore(cache, collection, spec) for spec in specs]
    plan = plan_extraction(stores, clips, retry_failed)
    summary = ExtractSummary(new=0, features=[], retried=plan.retries)
    if plan.jobs:
        log(_disk_estimate(plan, specs, cache))
        extraction = ExtractionJob(tuple(specs), cache.resolve(), collection, plan.shards, weights, limits)
        engine = engine or LocalEngine(choose_devices(device), workers or available_cores())
        with tqdm(total=len(plan.jobs), unit="clip", desc="extract", disable=not progress) as bar:
            _run_chunks(plan.jobs, extraction, engine, summary, bar, log)
    _summarise(summary, stores, clips)
    return summary


def _run_chunks(
    jobs: tuple[ClipJob, ...],
    extraction: ExtractionJob,
    engine: Engine,
    summary: ExtractSummary,
    bar: "tqdm[Never]",
    log: Callable[[str], None],
) -> None:
    """Process all jobs; those that other runs have claimed are retried when these have committed or ended."""
    images = CachedImages(extraction.cache, extraction.collection, extraction.specs)
    processed: set[str] = set()
    failures = 0
    while jobs:
        size = chunk_size(extraction.stores(), len(jobs), engine.devices, images.bytes_per_clip)
        postponed: list[ClipJob] = []
        for progress in engine.run(extraction, split_into_chunks(jobs, size)):
            postponed += progress.postponed
            summary.elsewhere += progress.done_elsewhere
            for clip in progress.clips:
                if clip.notes:
                    summary.notes[clip.clip_id] = clip.notes
                failures += clip.failed
                bar.update(clip.clip_id not in processed)
                processed.add(clip.clip_id)
            bar.update(progress.done_elsewhere)
            bar.set_postfix(failed=failures, refresh=False)
        jobs = tuple(postponed)
        if jobs:
            log(f"another run is extracting {len(jobs)} of these clips: waiting for it")
            remaining = _wait_for_other_runs(jobs, extraction)
            summary.elsewhere += len(jobs) - len(remaining)
            bar.update(len(jobs) - len(remaining))
            jobs = remaining
    summary.new = len(processed)


def _wait_for_other_runs(jobs: tuple[ClipJob, ...], extraction: ExtractionJob) -> tuple[ClipJob, ...]:
    """Wait until no other run claims any of these clips. Returns those that none has committed."""
    claims = Claims(extraction.cache, extraction.collection)
    stores = extraction.stores()
    while True:
        claimed = set(claims.claimed_ids().tolist())
        jobs = remaining_jobs(stores, jobs, extraction.known_shards)
        if not any(
            claim_id(extraction.specs[position].key, job.clip) in claimed for job in jobs for position in job.missing
        ):
            return jobs
        time.sleep(POLL_SECONDS)


def _disk_estimate(plan: ExtractionPlan, specs: Sequence[FeatureSpec], cache: Path) -> str:
    """Upper bound of the bytes that the run writes (clips without sound write less), and the free space."""
    size = sum(specs[position].bytes_per_clip for job in plan.jobs for position in job.missing)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    warning = "" if size < free else ": make room, or name another place with --cache"
    retries = f", {plan.retries} of which failed before," if plan.retries else ""
    return (
        f"to write: up to {_readable_size(size)} for {len(plan.jobs)} clips{retries} into {cache} "
        f"({_readable_size(free)} free){warning}"
    )


def _readable_size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _summarise(summary: ExtractSummary, stores: Sequence[FeatureStore], clips: Sequence[Clip]) -> None:
    """Fill a summary with what the cache holds of these clips."""
    query = ClipQuery(clips)
    results = [store.lookup(query) for store in stores]
    for store, result in zip(stores, results, strict=True):
        done, no_audio, failed = (int((result.outcome == outcome).sum()) for outcome in (DONE, NO_SOUND, FAILED))
        summary.features.append(FeatureSummary(store.spec, store.folder, done, no_audio, failed, result.extra))
    outcomes = np.stack([result.outcome for result in results], axis=1)
    for index in np.flatnonzero(np.isin(outcomes, (NO_SOUND, FAILED)).any(axis=1)).tolist():
        failures = [result.failure(index) for result in results if result.outcome[index] == FAILED]
        if failures:
            reasons = dict.fromkeys(f"{failure.stage}: {failure.message}" for failure in failures)
            summary.problems[clips[index].clip_id] = list(reasons)
        else:
            summary.no_audio.append(clips[index].clip_id)
    summary.notes = {clip.clip_id: summary.notes[clip.clip_id] for clip in clips if clip.clip_id in summary.notes}
