"""`avfuse extract`: stage one."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avfuse.pipeline.cli.manifest import builder_options
from avfuse.pipeline.cli.options import (
    cache_option,
    comma_list,
    device_option,
    reader_option,
    size_option,
    style_option,
)
from avfuse.pipeline.output_paths import require_folder

if TYPE_CHECKING:
    from avfuse.features.audio_images import Style
    from avfuse.features.spec import Dtype, Precision


PRECISIONS: "dict[str, Precision]" = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

DTYPES: "dict[str, Dtype]" = {"fp16": "float16", "fp32": "float32"}


@builder_options
@click.command(short_help="Stage one: compute the features of a data set into the cache.")
@click.option(
    "--dataset",
    required=True,
    help="A data set listed before, or one to list first: demo, folder, ucf101, ... (avfuse manifest --help); what "
    "describes it there can be said here too.",
)
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
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    default="fp16",
    show_default=True,
    help="How what networks give is stored; fp32 takes twice the space, and is another feature.",
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
@click.option("--retry-failed", is_flag=True, help="Try clips again that failed twice; once is tried again anyway.")
@click.option(
    "--chunk-range",
    metavar="I/N",
    help="Only the I-th of N equal parts of the data set, I from 1 to N: for jobs of a queue, side by side.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    show_default=True,
    help="Who does the work: this machine's devices, or a Dask cluster's workers (--scheduler).",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of the Dask scheduler, such as tcp://HOST:8786.")
@click.option(
    "--worker-resources",
    metavar="NAME=N",
    help="dask: what a worker must have declared to be given work (default: GPU=1 where any has).",
)
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
    dtype: str,
    limit: int | None,
    workers: int | None,
    clip_seconds: float | None,
    clip_memory: float | None,
    retry_failed: bool,
    chunk_range: str | None,
    engine: str,
    scheduler: str | None,
    worker_resources: str | None,
    device: str,
    cache: Path,
    **dataset_options: Any,
) -> None:
    """Compute the features of a data set and keep them; what is in the cache already is not computed again.

    --dataset names one that was listed before, or a kind of data set to list first, with the options that describe it
    (`avfuse manifest DATASET --help`). A clip that cannot be used is recorded with its reason, and the run continues.

    \b
    Examples:
      avfuse extract --dataset demo
      avfuse extract --dataset folder --root clips/ --label-column verb --features lite:frames,lite:chromagram
      avfuse extract --dataset clips --engine dask --scheduler tcp://node1:8786
      avfuse extract --dataset clips --chunk-range 3/8          (one of eight jobs of a queue)
    """
    require_folder(cache, "--cache")
    selected, resources = _chunk_range(chunk_range), _check_engine(engine, scheduler, worker_resources)
    from avfuse.features.backbones import WeightsChoice
    from avfuse.features.feature_names import resolve
    from avfuse.pipeline.extraction import extract_data_set
    from avfuse.stages.extract.pool import DEFAULT_LIMITS

    choice = WeightsChoice.parse(weights)
    limits = DEFAULT_LIMITS
    if clip_seconds is not None:
        limits = replace(limits, seconds=clip_seconds)
    if clip_memory is not None:
        limits = replace(limits, memory_bytes=round(clip_memory * 2**30))
    any_usable = extract_data_set(
        dataset,
        resolve(comma_list(features), frames, reader, style, size, choice, PRECISIONS[precision], DTYPES[dtype]),
        cache,
        log=click.echo,
        warn=partial(click.echo, err=True),
        dataset_options=dataset_options,
        limit=limit,
        chunk_range=selected,
        device=device,
        workers=workers,
        scheduler=scheduler,
        worker_resources=resources,
        retry_failed=retry_failed,
        weights=choice,
        limits=limits,
    )
    if not any_usable:
        raise click.exceptions.Exit(1)


def _chunk_range(text: str | None) -> tuple[int, int]:
    """`3/8` as (3, 8). Raises UsageError for what is no such thing."""
    from avfuse.features.errors import UsageError

    if text is None:
        return 1, 1
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UsageError(f"--chunk-range {text}: write I/N with I from 1 to N, for example 3/8")
    return int(number), int(parts)


def _check_engine(name: str, scheduler: str | None, resources: str | None) -> dict[str, float] | None:
    """Resources that workers of a cluster must declare. Raises UsageError for options that exclude each other."""
    from avfuse.features.errors import UsageError
    from avfuse.pipeline.cli.cluster import require_distributed

    if name == "local":
        for flag, value in (("--scheduler", scheduler), ("--worker-resources", resources)):
            if value is not None:
                raise UsageError(f"{flag} is for a cluster: add --engine dask")
        return None
    require_distributed()
    if scheduler is None:
        raise UsageError("--engine dask needs --scheduler, such as tcp://HOST:8786 (avfuse cluster starts one)")
    if resources is None:
        return None
    try:
        return {resource: float(count) for resource, count in (part.split("=") for part in comma_list(resources))}
    except ValueError as error:
        raise UsageError(f"--worker-resources {resources}: write NAME=N, for example GPU=1") from error
