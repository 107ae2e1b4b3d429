"""`avfuse understand`: contribution of modalities, robustness, gains by class, and explanations of heads."""

import shlex
import sys
from pathlib import Path

import click

from avfuse.pipeline.cli.options import (
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

run_argument = click.argument("run", type=click.Path(path_type=Path))
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The folder for the tables (default: the run's)."
)


@click.group(short_help="Contribution of modalities, robustness, gains by class, and explanations.")
def understand() -> None:
    """Analyse trained heads (docs/understanding.md).

    \b
    Examples:
      avfuse understand contribution --dataset clips --fusion mlp --split audio
      avfuse understand robustness runs/clips/all --head mlp
      avfuse understand gains runs/clips/all --before video --after mlp
      avfuse understand explain runs/clips/all --head video --head mlp
    """


@understand.command(short_help="Shapley values of modalities or features.")
@click.option("--dataset", required=True, help="A data set whose features are in the cache.")
@click.option("--fusion", default="mlp", show_default=True, help="One head.")
@video_option
@audio_option
@click.option("--split", help="Comma-separated modalities whose features each get a value.")
@seeds_option
@click.option("--name", help="Name under runs/ (default: contribution-FUSION).")
@epochs_option
@settings_option
@click.option("--shuffle-labels", is_flag=True, help="Control: permute the training labels; values must fall to zero.")
@memory_option
@replace_option
@device_option
@cache_option
@runs_option
def contribution(
    dataset: str,
    fusion: str,
    video: str,
    audio: str,
    split: str | None,
    seeds: int,
    name: str | None,
    epochs: int | None,
    settings: tuple[str, ...],
    shuffle_labels: bool,
    memory_gib: float | None,
    replace: bool,
    device: str,
    cache: Path,
    runs: Path,
) -> None:
    """Shapley values of test accuracy: train a head on every subset of its inputs, and print what each input adds.

    Players are modalities, or with --split the features of one; n players take 2^n - 1 heads per seed. Heads that were
    trained with the same data and settings are read back, and an interrupted call resumes.

    \b
    Examples:
      avfuse understand contribution --dataset clips --fusion mlp
      avfuse understand contribution --dataset clips --fusion mlp --split audio --seeds 3 --name images
      avfuse understand contribution --dataset clips --fusion crossattn --audio lite:chromagram --set lr=3e-4
    """
    from avfuse.features.feature_names import expand_names
    from avfuse.features.name_rules import check_name
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.provenance import describe_run
    from avfuse.pipeline.report.analyses import print_contribution
    from avfuse.stages.device import choose_device
    from avfuse.stages.fuse.analysis.shapley_runs import run_contribution
    from avfuse.stages.fuse.data.dataset import load_data
    from avfuse.stages.fuse.heads import get_head
    from avfuse.stages.fuse.runs.experiment import needs_filter_banks
    from avfuse.stages.fuse.training.overrides import TrainingOverrides

    get_head(fusion)
    parts = unique_list(f"--split {split}", split) if split is not None else []
    training = TrainingOverrides(shuffle_labels=shuffle_labels, **{"epochs": epochs} | training_settings(settings))
    training.check([fusion])
    manifest = load_manifest(cache, dataset)
    inputs = {modality: expand_names(comma_list(text)) for modality, text in (("video", video), ("audio", audio))}
    chosen = choose_device(device)
    memory = memory_bytes(chosen, memory_gib)
    data = load_data(manifest, cache, inputs, chosen, memory, banks=needs_filter_banks([fusion], training, {}))
    folder = require_folder(runs / dataset / check_name(name or f"contribution-{fusion}", "run"), "--runs")
    metadata = describe_run(manifest, shlex.join(["avfuse", *sys.argv[1:]]), cache)
    run = run_contribution(data, folder, fusion, training, seeds, metadata, split=parts, replace=replace)
    click.echo(print_contribution(run))
    click.echo(f"tables in {folder}: contribution.csv, coalitions.csv, clips.csv")


@understand.command(short_help="Accuracy when a modality is perturbed at test.")
@run_argument
@click.option("--head", "rows", multiple=True, help="A row of the run (default: all whose head takes both modalities).")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of noise and swap partners.")
@output_option
@memory_option
@device_option
@cache_option
def robustness(
    run: Path,
    rows: tuple[str, ...],
    seed: int,
    output: Path | None,
    memory_gib: float | None,
    device: str,
    cache: Path,
) -> None:
    """Test the heads of RUN, a folder under runs/, with one modality dropped, noisy, shifted in time, or swapped with
    another clip's. Nothing is trained.

    \b
    Examples:
      avfuse understand robustness runs/clips/all
      avfuse understand robustness runs/clips/all --head mlp --head audio -o tables
    """
    import pandas as pd

    from avfuse.manifests import load_manifest
    from avfuse.pipeline.report.analyses import print_robustness, robustness_notes
    from avfuse.stages.device import choose_device
    from avfuse.stages.fuse.analysis.robustness import robustness as measure
    from avfuse.stages.fuse.runs.restore import (
        job_from_result,
        load_audio_video_rows,
        load_head,
        load_rows,
        load_run_data,
    )

    chosen = choose_device(device)
    memory = memory_bytes(chosen, memory_gib)
    loaded = load_rows(run, rows) if rows else load_audio_video_rows(run)
    data = load_run_data(loaded, load_manifest(cache, loaded.described["dataset"]), cache, chosen, memory)
    folder = require_folder(output or run, "-o")
    tables = {}
    for row, heads in loaded.heads.items():
        result = measure(job_from_result(heads[0], data), [load_head(head, data) for head in heads], seed)
        tables[row] = result.table
        click.echo(f"{print_robustness(loaded, row, result)}\n")
    for note in robustness_notes(loaded):
        click.echo(note)
    pd.concat(tables, names=["row"]).droplevel(1).to_csv(folder / "robustness.csv")
    click.echo(f"table in {folder}: robustness.csv")


@understand.command(short_help="Classes that one row predicts better than another.")
@run_argument
@click.option("--before", required=True, help="A row of the run.")
@click.option("--after", required=True, help="The row to compare it with.")
@click.option("--run-before", type=click.Path(path_type=Path), help="The run of --before, if it is another one.")
@output_option
def gains(run: Path, before: str, after: str, run_before: Path | None, output: Path | None) -> None:
    """Compare two rows of RUN, a folder under runs/, class by class: accuracy gained and lost from row --before to row
    --after, and confusions of two classes. Nothing is trained.

    \b
    Examples:
      avfuse understand gains runs/clips/all --before video --after mlp
      avfuse understand gains runs/clips/chroma --before mlp --after mlp --run-before runs/clips/all
    """
    from avfuse.features.errors import UsageError
    from avfuse.pipeline.report.analyses import print_gains, warnings_of
    from avfuse.stages.fuse.analysis.class_gains import class_gains as measure
    from avfuse.stages.fuse.runs.restore import load_rows, match_test_clips

    other = run_before or run
    if other.resolve() == run.resolve() and before == after:
        raise UsageError(f"--before and --after are both '{after}' of {run}: name two rows, or another --run-before")
    first, second = load_rows(other, [before]), load_rows(run, [after])
    match_test_clips(first, second)
    folder = require_folder(output or run, "-o")
    result = measure(second.targets, first.heads[before], second.heads[after])
    was, now = (before, after) if run_before is None else (f"{other}:{before}", f"{run}:{after}")
    click.echo(print_gains(result, second.targets, was, now))
    for name, loaded in ((was, first), (now, second)):
        for warning in warnings_of(loaded.described):
            click.echo(f"{name}: {warning}")
    for file, table in (("gains.csv", result.classes), ("confusions.csv", result.confusions)):
        table.assign(row_before=was, row_after=now).to_csv(folder / file, index=False)
    click.echo(f"tables in {folder}: gains.csv, confusions.csv")


@understand.command(short_help="Heatmaps of heads over clips, as pictures.")
@run_argument
@click.option(
    "--head", "rows", multiple=True, required=True, help="A row of the run; several are drawn below each other."
)
@click.option("--clip", "clip_ids", multiple=True, help="A test clip (default: those on which the rows disagree most).")
@click.option(
    "--clips",
    "count",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Number of clips, without --clip.",
)
@click.option(
    "--method",
    type=click.Choice(["grad-cam", "attention"]),
    default="grad-cam",
    show_default=True,
    help="Grad-CAM of any head, or the attention of crossattn, bottleneck, mmt, mat_lite and mat.",
)
@click.option(
    "--of",
    type=click.Choice(["predicted", "true"]),
    default="predicted",
    show_default=True,
    help="The class that Grad-CAM explains: the row's likeliest, or the true one.",
)
@click.option("--segments", is_flag=True, help="Also draw each clip's filter bank with masked segments.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the masked segments.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder for pictures (default: explanations in the run's).",
)
@device_option
@cache_option
def explain(
    run: Path,
    rows: tuple[str, ...],
    clip_ids: tuple[str, ...],
    count: int,
    method: str,
    of: str,
    segments: bool,
    seed: int,
    output: Path | None,
    device: str,
    cache: Path,
) -> None:
    """Draw heatmaps of RUN, a folder under runs/: one picture per clip, with maps over frames and sound for each row.
    Nothing is trained; the media are decoded again.

    \b
    Examples:
      avfuse understand explain runs/clips/all --head video --head bottleneck
      avfuse understand explain runs/clips/all --head crossattn --method attention --clip v_Drums_g01_c01 -o pictures
    """
    from typing import cast

    from avfuse.manifests import load_manifest
    from avfuse.pipeline.report.analyses import warnings_of
    from avfuse.pipeline.report.explain.rows import NUMBERS, ExplanationSource
    from avfuse.pipeline.report.explain.run_clips import (
        ExplainedClass,
        choose_clips,
        explain_rows,
        load_test_clips,
        numbers,
        write_pages,
        write_segments,
    )
    from avfuse.stages.device import choose_device
    from avfuse.stages.fuse.analysis.attribution import Method
    from avfuse.stages.fuse.runs.predict import FeatureSource
    from avfuse.stages.fuse.runs.restore import load_rows

    chosen_device = choose_device(device)
    loaded = load_rows(run, rows)
    chosen = choose_clips(loaded, clip_ids, count)
    clips = load_test_clips(loaded, chosen, load_manifest(cache, loaded.described["dataset"]))
    folder = require_folder(output or run / "explanations", "-o")
    source = ExplanationSource(FeatureSource(cache, loaded.described["collection"]), device=chosen_device)
    explained = explain_rows(loaded, clips, source, cast(Method, method), cast(ExplainedClass, of))
    written = write_pages(loaded, explained, chosen, clips, source, cast(ExplainedClass, of), folder)
    if segments:
        written += write_segments(clips, folder, seed)
    table = folder / NUMBERS
    numbers(loaded, explained, chosen).to_csv(table, index=False)
    for row in explained:
        if row.fallback is not None:
            click.echo(f"{row.row} is explained by Grad-CAM: {row.fallback}")
    for row in explained:
        for modality, why in row.explanation.without_map.items():
            click.echo(f"{row.row} has no map of {modality}: {why}")
    for warning in warnings_of(loaded.described):
        click.echo(warning)
    for path in (*written, table):
        click.echo(path)
