"""Stage one of a data set: its manifest, its clips, the engine that does the work, and the summary to print."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avfuse.features import backbones
from avfuse.features.backbones import WeightsChoice
from avfuse.features.feature_names import PUBLISHED
from avfuse.features.spec import FeatureSpec
from avfuse.pipeline.data_sets import find_manifest
from avfuse.stages.extract.plan import clip_range
from avfuse.stages.extract.pool import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from avfuse.stages.extract.engine import Engine
    from avfuse.stages.extract.run import ExtractSummary


def extract_data_set(
    dataset: str,
    specs: Sequence[FeatureSpec],
    cache: Path,
    *,
    log: Callable[[str], None],
    warn: Callable[[str], None],
    dataset_options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    chunk_range: tuple[int, int] = (1, 1),
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    worker_resources: Mapping[str, float] | None = None,
    retry_failed: bool = False,
    weights: WeightsChoice = PUBLISHED,
    limits: Limits = DEFAULT_LIMITS,
) -> bool:
    """Compute the missing features of a data set. Returns whether any of its clips could be used.

    Args:
        dataset: the name of a manifest in the cache, or of a builder.
        specs: the features.
        cache: the folder of manifests and features.
        log, warn: are given the lines to print on standard output and on standard error.
        dataset_options: the options that describe a data set, as `find_manifest` takes them.
        limit: only the first `limit` clips.
        chunk_range: (I, N): only the I-th of N equal ranges of these clips, counted from 1.
        device: of networks, as `choose_devices` takes it.
        workers: decode processes; None: one per core.
        scheduler: the address of a Dask scheduler whose workers do the work; None: this machine does.
        worker_resources: what the cluster's workers must have declared.
        retry_failed: whether to try clips again that failed twice.
        weights: what backbones are loaded with.
        limits: the time and memory that one clip may take.
    """
    for notice in licence_notices(specs, weights):
        warn(notice)
    manifest, description = find_manifest(dataset, cache, dataset_options or {})
    log(description)
    from avfuse.stages.extract.run import extract  # imports torch, which a wrong data set need not wait for

    clips = clip_range(manifest.clips()[:limit], *chunk_range)
    with _engine(scheduler, device, workers, worker_resources, log) as engine:
        summary = extract(
            clips,
            specs,
            cache,
            manifest.collection,
            device=device,
            workers=workers,
            engine=engine,
            retry_failed=retry_failed,
            weights=weights,
            limits=limits,
            log=log,
        )
    for line in summary_lines(summary, len(clips)):
        log(line)
    any_usable = not clips or any(feature.done or feature.no_audio for feature in summary.features)
    if not any_usable:
        warn("avfuse: none of these clips could be used")
    return any_usable


@contextmanager
def _engine(
    scheduler: str | None,
    device: str,
    workers: int | None,
    resources: Mapping[str, float] | None,
    log: Callable[[str], None],
) -> Iterator["Engine | None"]:
    """The cluster behind a scheduler; None for this machine's devices."""
    if scheduler is None:
        yield None
        return
    from avfuse.pipeline.cluster.dask_engine import DaskEngine  # needs an extra

    with DaskEngine(scheduler, device, workers, resources, log) as engine:
        yield engine


def licence_notices(specs: Sequence[FeatureSpec], weights: WeightsChoice) -> list[str]:
    """A line per backbone whose weights exclude commercial use."""
    notices = []
    for name in dict.fromkeys(spec.model.backbone for spec in specs if spec.model is not None):
        checkpoint = weights.weights_for(name, backbones.get_backbone(name).checkpoints).checkpoint
        if checkpoint is not None and checkpoint.non_commercial:
            notices.append(
                f"{name}: its weights ({checkpoint.name}) are licensed {checkpoint.licence}, not for commercial use"
            )
    return notices


def summary_lines(summary: "ExtractSummary", clips: int) -> Iterator[str]:
    """Lines at the end of an extraction: counts per feature, warnings and failures."""
    if summary.new:
        cached = ", the others were in the cache" if summary.new < clips else ""
        retried = f" ({summary.retried} had failed before)" if summary.retried else ""
        yield f"{summary.new} of {clips} clips processed{retried}{cached}"
    else:
        yield f"nothing to extract: all {clips} clips are in the cache"
    if summary.elsewhere:
        yield f"{summary.elsewhere} clips were extracted meanwhile by other runs on this cache"
    extra = sum(feature.extra for feature in summary.features)
    if extra:
        yield f"{extra} duplicate rows, because two runs extracted the same clips; each clip is read once"
    width = max(len(feature.spec.name) for feature in summary.features)
    for feature in summary.features:
        untrained = "  (untrained weights)" if feature.spec.untrained else ""
        yield (
            f"  {feature.spec.name:<{width}}  {feature.done:>6} done  {feature.no_audio:>4} without audio"
            f"  {feature.failed:>4} failed  {feature.folder}{untrained}"
        )
    if summary.no_audio:
        yield f"without an audio stream ({len(summary.no_audio)}): {', '.join(summary.no_audio)}"
    if summary.notes:
        yield f"used with warnings ({len(summary.notes)}):"
        clips_by_warning: dict[str, list[str]] = {}
        for clip_id, notes in summary.notes.items():
            clips_by_warning.setdefault("; ".join(notes), []).append(clip_id)
        for warning, clip_ids in clips_by_warning.items():
            more = len(clip_ids) - 1
            others = f" and {more} other{'s' * (more > 1)}" if more else ""
            yield f"  {clip_ids[0]}{others}: {warning}"
    if summary.problems:
        yield f"could not be used ({len(summary.problems)}):"
        for clip_id, reasons in summary.problems.items():
            yield f"  {clip_id}: {'; '.join(reasons)}"
