"""`avfuse extract`: stage one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.manifest import build_manifest, builder_options
from pipeline.cli.options import cache_option, device_option, names, require_folder

if TYPE_CHECKING:
    from manifests import Manifest
    from stages.extract.run import ExtractSummary


@click.command(short_help="Stage one: compute the features of a data set into the cache.")
@click.option("--dataset", required=True, help="A data set listed before, or a kind to list first: demo, folder.")
@click.option(
    "--features",
    default="lite",
    show_default=True,
    help="Comma-separated: BACKBONE (all it takes), BACKBONE:frames, BACKBONE:images, or BACKBONE:<representation>.",
)
@click.option("--frames", default="uniform:25", show_default=True, help="Which frames: uniform:N.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N clips, to try things out.")
@click.option("--workers", type=click.IntRange(min=1), help="Decode processes (default: one per core).")
@click.option("--retry-failed", is_flag=True, help="Try clips again that failed before.")
@builder_options
@device_option
@cache_option
def extract(
    dataset: str,
    features: str,
    frames: str,
    limit: int | None,
    workers: int | None,
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
    from features.requests import resolve

    specs = resolve(names(features), frames)
    listed = _manifest(dataset, cache, described)
    click.echo(listed.summary())
    from stages.extract.run import extract as run_extract

    clips = listed.clips()[:limit]
    summary = run_extract(
        clips,
        specs,
        cache,
        listed.collection,
        device=device,
        workers=workers,
        retry_failed=retry_failed,
    )
    _print(summary, len(clips))


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
        click.echo(f"{summary.new} of {clips} clips were worked on, the others were in the cache")
    else:
        click.echo(f"nothing to extract: all {clips} clips are in the cache")
    width = max(len(feature.spec.name) for feature in summary.features)
    for feature in summary.features:
        note = "  (untrained weights)" if feature.spec.model.untrained else ""
        click.echo(
            f"  {feature.spec.name:<{width}}  {feature.done:>6} done  {feature.no_audio:>4} without audio"
            f"  {feature.failed:>4} failed  {feature.folder}{note}"
        )
    if summary.no_audio:
        click.echo(f"without an audio stream ({len(summary.no_audio)}): {', '.join(summary.no_audio)}")
    if summary.problems:
        click.echo(f"could not be used ({len(summary.problems)}):")
        for clip_id, reasons in summary.problems.items():
            click.echo(f"  {clip_id}: {'; '.join(reasons)}")
