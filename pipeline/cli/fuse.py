"""`avfuse fuse`: stage two."""

import shlex
import sys
from pathlib import Path

import click

from avfuse.pipeline.cli.options import (
    assignments,
    audio_option,
    cache_option,
    comma_list,
    device_option,
    epochs_option,
    memory_bytes,
    memory_option,
    replace_option,
    runs_option,
    seeds_option,
    settings_option,
    training_settings,
    unique_list,
    video_option,
)
from avfuse.pipeline.output_paths import require_folder


@click.command(short_help="Stage two: train fusion heads on cached features.")
@click.option("--dataset", required=True, help="A data set whose features are in the cache.")
@click.option(
    "--fusion",
    default="all",
    show_default=True,
    help="Comma-separated heads: audio, video, average, mlp, crossattn, bottleneck (all: these six), alpha, mat, "
    "mat_lite, mmt, svc, logreg, or your own.",
)
@video_option
@audio_option
@seeds_option
@click.option("--name", help="Name of the run (default: the fusion).")
@epochs_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Clips per step (default: the head's own).")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate.")
@click.option("--weight-decay", type=click.FloatRange(min=0), help="Decoupled weight decay.")
@settings_option
@click.option(
    "--sweep",
    metavar="NAME=V1,V2,...",
    multiple=True,
    help="Train with each value of a setting, or each choice of features (joined by +); several sweeps are combined.",
)
@click.option(
    "--shuffle-labels", is_flag=True, help="Control: permute the training labels; accuracy must fall to chance."
)
@memory_option
@replace_option
@device_option
@cache_option
@runs_option
def fuse(
    dataset: str,
    fusion: str,
    video: str,
    audio: str,
    seeds: int,
    name: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    weight_decay: float | None,
    settings: tuple[str, ...],
    sweep: tuple[str, ...],
    shuffle_labels: bool,
    memory_gib: float | None,
    replace: bool,
    device: str,
    cache: Path,
    runs: Path,
) -> None:
    """Train fusion heads on a data set's cached features, with several seeds, and write a table, plots and a page.

    Heads that were trained with the same data and settings are read back. The number of epochs is chosen on validation
    groups of the train split; the test split is read once, at the end. One head learns all targets of a data set, such
    as verb and noun; unlabelled clips are predicted too.

    \b
    Examples:
      avfuse fuse --dataset demo --fusion all
      avfuse fuse --dataset clips --fusion mlp,crossattn --audio lite:chromagram --name chroma
      avfuse fuse --dataset clips --fusion mlp --set video=flatten --sweep lr=1e-4,3e-4 --sweep l1=0,1e-5
      avfuse fuse --dataset clips --fusion audio,mlp --sweep audio=lite:mfcc,lite:chromagram
    """
    from avfuse.features.feature_names import expand_names
    from avfuse.features.name_rules import check_name
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.provenance import describe_run
    from avfuse.pipeline.report import print_table, write_results
    from avfuse.stages.device import choose_device
    from avfuse.stages.fuse.data.dataset import load_data
    from avfuse.stages.fuse.heads import get_head
    from avfuse.stages.fuse.heads.base import STANDARD
    from avfuse.stages.fuse.runs.experiment import needs_filter_banks, run_experiment
    from avfuse.stages.fuse.runs.summary import summarise
    from avfuse.stages.fuse.training.overrides import TrainingOverrides

    heads = list(STANDARD) if fusion == "all" else unique_list(f"--fusion {fusion}", fusion)
    for head in heads:
        get_head(head)
    swept = {name: unique_list(f"--sweep {name}={text}", text) for name, text in assignments("--sweep", sweep).items()}
    features = {"video": video, "audio": audio} | {
        name: ",".join(values).replace("+", ",") for name, values in swept.items() if name in ("video", "audio")
    }
    inputs = {name: expand_names(comma_list(text)) for name, text in features.items()}
    given = {"lr": lr, "weight_decay": weight_decay, "batch_size": batch_size, "epochs": epochs}
    training = TrainingOverrides(shuffle_labels=shuffle_labels, **given | training_settings(settings))
    manifest = load_manifest(cache, dataset)
    chosen = choose_device(device)
    memory = memory_bytes(chosen, memory_gib)
    data = load_data(manifest, cache, inputs, chosen, memory, banks=needs_filter_banks(heads, training, swept))
    for modality, streamed in data.streamed.items():
        click.echo(f"{modality}: {streamed.bytes_on_disk / 2**30:.1f} GiB do not fit in memory and are streamed")
    folder = require_folder(runs / dataset / check_name(name or fusion.replace(",", "+"), "run"), "--runs")
    metadata = describe_run(manifest, shlex.join(["avfuse", *sys.argv[1:]]), cache)
    run = run_experiment(data, folder, heads, seeds, training, metadata, sweep=swept, replace=replace)
    rows = summarise(run)
    click.echo(print_table(run, rows))
    written = write_results(run, rows, manifest, cache)
    click.echo(f"results in {folder}: {', '.join(path.name for path in written)}")
