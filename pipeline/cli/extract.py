"""`avfuse extract`: stage one."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.manifest import build_manifest, builder_options
from pipeline.cli.options import (
    cache_option,
    device_option,
    names,
    reader_option,
    require_folder,
    size_option,
    style_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.audio_images import Style
    from features.backbones import WeightsChoice
    from features.spec import FeatureSpec, Precision
    from manifests import Manifest
    from stages.extract.run import ExtractSummary


PRECISIONS: "dict[str, Precision]" = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@click.command(short_help="Stage one: compute the features of a data set into the cache.")
@click.option("--dataset", required=True, help="A data set listed before, or a kind to list first: demo, folder.")
@click.option(
    "--features",
    default="lite",
    show_default=True,
    help="Comma-separated: BACKBONE (all it takes), BACKBONE:frames, BACKBONE:images, BACKBONE:<representation>, "
    "image:<representation> (the pictures themselves), audio:fbank; then :tokens, :windows4 (of frames), :h, :v, :hv "
    "or :flips (mirrored views).",
)
@click.option(
    "--frames",
    help="Which frames: uniform:N or strided:NxS (docs/media.md; default: uniform:25, or the network's own).",
)
@reader_option
@style_option
@size_option
@click.option(
    "--weights",
    default="auto",
    show_default=True,
    help="auto (published), random (marked untrained), a file, a folder, or NAME=FILE,... (avfuse weights list).",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="What networks compute with; half of it is faster on a GPU, and another feature (docs/backbones.md).",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N clips, to try things out.")
@click.option("--workers", type=click.IntRange(min=1), help="Decode processes (default: one per core).")
@click.option(
    "--clip-seconds", type=click.FloatRange(min=0, min_open=True), help="Give a clip up after so long (default: 300)."
)
@click.option(
    "--clip-memory",
    type=click.FloatRange(min=0, min_open=True),
    help="Give a clip up that takes more memory to decode, in GiB (default: 4).",
)
@click.option("--retry-failed", is_flag=True, help="Try clips again that failed before.")
@builder_options
@device_option
@cache_option
def extract(
    dataset: str,
    features: str,
    frames: str | None,
    reader: str,
    style: "Style",
    size: tuple[int, int] | None,
    weights: str,
    precision: str,
    limit: int | None,
    workers: int | None,
    clip_seconds: float | None,
    clip_memory: float | None,
    retry_failed: bool,
    device: str,
    cache: Path,
    **described: Any,
) -> None:
    """Compute the features of a data set and keep them; what is in the cache already is not computed again.

    --dataset names one that was listed before (`avfuse manifest`), or a kind of data set to list first: demo, or folder
    with --root. A clip that cannot be used is recorded with its reason and the run goes on.

    \b
    Examples:
      avfuse extract --dataset demo
      avfuse extract --dataset folder --root clips/ --label-column verb --features lite:frames,lite:chromagram
    """
    require_folder(cache, "--cache")
    from features.backbones import WeightsChoice
    from features.requests import resolve

    choice = WeightsChoice.parse(weights)
    specs = resolve(names(features), frames, reader, style, size, choice, PRECISIONS[precision])
    _say_licences(specs, choice)
    listed = _manifest(dataset, cache, described)
    click.echo(listed.summary())
    from stages.extract.pool import DEFAULT_LIMITS
    from stages.extract.run import extract as run_extract

    limits = DEFAULT_LIMITS
    if clip_seconds is not None:
        limits = replace(limits, seconds=clip_seconds)
    if clip_memory is not None:
        limits = replace(limits, memory_bytes=round(clip_memory * 2**30))
    clips = listed.clips()[:limit]
    summary = run_extract(
        clips,
        specs,
        cache,
        listed.collection,
        device=device,
        workers=workers,
        retry_failed=retry_failed,
        weights=choice,
        limits=limits,
        tell=click.echo,
    )
    _print(summary, len(clips))


def _say_licences(specs: "Sequence[FeatureSpec]", choice: "WeightsChoice") -> None:
    """Weights that are not for every use say so whenever they are used."""
    from features import backbones

    for name in dict.fromkeys(spec.model.backbone for spec in specs if spec.model is not None):
        used = choice.of(name, backbones.get(name).checkpoints).checkpoint
        if used is not None and used.non_commercial:
            click.echo(
                f"{name}: its weights ({used.name}) are licensed {used.licence}, not for commercial use", err=True
            )


def _manifest(dataset: str, cache: Path, described: dict[str, Any]) -> "Manifest":
    from features.errors import UsageError
    from manifests import BUILDERS, list_manifests, load_manifest

    if dataset in BUILDERS:
        return build_manifest(dataset, cache, **described)
    known = list_manifests(cache)
    if dataset in known:
        return load_manifest(cache, dataset)
    listed = f"; listed before: {', '.join(known)}" if known else ""
    raise UsageError(f"unknown data set '{dataset}': choose from {', '.join(BUILDERS)} (folder needs ROOT){listed}")


def _print(summary: "ExtractSummary", clips: int) -> None:
    if summary.new:
        others = ", the others were in the cache" if summary.new < clips else ""
        click.echo(f"{summary.new} of {clips} clips were worked on{others}")
    else:
        click.echo(f"nothing to extract: all {clips} clips are in the cache")
    width = max(len(feature.spec.name) for feature in summary.features)
    for feature in summary.features:
        note = "  (untrained weights)" if feature.spec.untrained else ""
        click.echo(
            f"  {feature.spec.name:<{width}}  {feature.done:>6} done  {feature.no_audio:>4} without audio"
            f"  {feature.failed:>4} failed  {feature.folder}{note}"
        )
    if summary.no_audio:
        click.echo(f"without an audio stream ({len(summary.no_audio)}): {', '.join(summary.no_audio)}")
    if summary.notes:
        click.echo(f"used, but look ({len(summary.notes)}):")
        for clip_id, notes in summary.notes.items():
            click.echo(f"  {clip_id}: {'; '.join(notes)}")
    if summary.problems:
        click.echo(f"could not be used ({len(summary.problems)}):")
        for clip_id, reasons in summary.problems.items():
            click.echo(f"  {clip_id}: {'; '.join(reasons)}")
