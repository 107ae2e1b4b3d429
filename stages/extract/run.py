"""From a manifest's clips to committed shards."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from features.backbones import WeightsChoice
from features.cache import FeatureStore
from features.clips import Clip
from features.errors import UsageError
from features.requests import PUBLISHED
from features.spec import FeatureSpec
from stages.device import choose_devices
from stages.extract.extractor import Extractor
from stages.extract.plan import Job, Plan, make_plan
from stages.extract.pool import DEFAULT_LIMITS, Limits


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
    tell: Callable[[str], None] = lambda line: None,
) -> ExtractSummary:
    """Bring every asked feature of every clip into the cache; what is there already is not done again.

    A broken clip becomes a failure row and the run goes on. With several devices each is served by a process of its
    own. tell: gets a line that says what the run will write, before it begins.

    Raises UsageError for a device that is not there.
    """
    stores = [FeatureStore(cache, collection, spec) for spec in specs]
    plan = make_plan(stores, clips, retry_failed)
    notes: dict[str, tuple[str, ...]] = {}
    if plan.jobs:
        devices = choose_devices(device)
        tell(_forecast(plan, specs, cache))
        each = max(1, (workers or os.cpu_count() or 1) // len(devices))
        shares = [plan.chunks[first :: len(devices)] for first in range(len(devices))]
        work = [
            _Share(chunks, tuple(specs), cache, collection, name, each, weights, limits, progress, line)
            for line, (name, chunks) in enumerate(zip(devices, shares, strict=True))
            if chunks
        ]
        for noted in _side_by_side(work):
            notes.update(noted)
    stores = [FeatureStore(cache, collection, spec) for spec in specs]
    summary = summarise(stores, clips, plan.jobs)
    summary.notes = {clip.clip_id: notes[clip.clip_id] for clip in clips if clip.clip_id in notes}
    return summary


def _forecast(plan: Plan, specs: Sequence[FeatureSpec], cache: Path) -> str:
    """How much the run writes at most: clips without sound write less."""
    need = sum(specs[position].bytes_per_clip for chunk in plan.chunks for job in chunk for position in job.lacks)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    warning = "" if need < free else ": make room, or name another place with --cache"
    return f"to write: up to {_size(need)} for {plan.jobs} clips into {cache} ({_size(free)} free){warning}"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


@dataclass(frozen=True)
class _Share:
    """What one device does of a run. line: where its progress bar stands."""

    chunks: tuple[tuple[Job, ...], ...]
    specs: tuple[FeatureSpec, ...]
    cache: Path
    collection: str
    device: str
    workers: int
    weights: WeightsChoice
    limits: Limits
    progress: bool
    line: int


def _side_by_side(work: Sequence[_Share]) -> list[dict[str, tuple[str, ...]]]:
    """Every device's share, one in this process, several in a process each. Raises UsageError when such a one dies."""
    if len(work) == 1:
        return [_run(work[0])]
    try:
        return joblib.Parallel(n_jobs=len(work), batch_size=1)(joblib.delayed(_run)(share) for share in work)
    except TerminatedWorkerError as error:
        raise UsageError(
            "a device's process died, killed from outside or out of memory: what it had committed is kept, start again"
        ) from error


def _run(share: _Share) -> dict[str, tuple[str, ...]]:
    """One device's chunks. Returns what was noticed of clips that were used all the same."""
    notes: dict[str, tuple[str, ...]] = {}
    clips = sum(map(len, share.chunks))
    bar = tqdm(
        total=clips, unit="clip", desc=f"extract on {share.device}", position=share.line, disable=not share.progress
    )
    with (
        bar,
        Extractor(
            share.specs, share.cache, share.collection, share.device, share.workers, share.weights, share.limits
        ) as extractor,
    ):
        failures = 0
        for clip, failed in extractor.run(share.chunks):
            if clip.notes:
                notes[clip.clip.clip_id] = clip.notes
            failures += failed
            bar.set_postfix(failed=failures, refresh=False)
            bar.update()
    return notes


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
