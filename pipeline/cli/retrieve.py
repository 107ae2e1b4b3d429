"""`avfuse retrieve`: retrieval between sound and picture."""

from pathlib import Path

import click

from avfuse.pipeline.cli.options import cache_option, device_option, memory_bytes, memory_option
from avfuse.pipeline.output_paths import require_file

DEFAULT_TOP = 5


@click.command(short_help="Retrieve pictures by sound and sounds by picture.")
@click.argument("run")
@click.option("--head", "row", metavar="ROW", help="A row of the run (default: all trained with contrast).")
@click.option("--query", metavar="CLIP_ID", help="List the clips nearest to this one.")
@click.option(
    "--from",
    "source",
    type=click.Choice(["audio", "video"]),
    help="The modality of queries (default: both; with --query, audio).",
)
@click.option(
    "--top", type=click.IntRange(min=1), help=f"With --query, number of clips listed (default: {DEFAULT_TOP})."
)
@click.option(
    "--split",
    type=click.Choice(["test", "train", "all"]),
    default="test",
    show_default=True,
    help="The clips to search; train is all that heads were trained on.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A CSV file for the printed table.")
@memory_option
@device_option
@cache_option
def retrieve(
    run: str,
    row: str | None,
    query: str | None,
    source: str | None,
    top: int | None,
    split: str,
    output: Path | None,
    memory_gib: float | None,
    device: str,
    cache: Path,
) -> None:
    """Retrieve clips in the joint space of audio-video contrast. RUN is a folder under runs/ or RUN:ROW, of a run or a
    table; its heads were trained with --set avc=0.5 (docs/retrieval.md). Nothing is trained.

    Without --query: recall, ranks and precision of all clips in both directions, beside chance. With --query: the clips
    nearest to one.

    \b
    Examples:
      avfuse fuse --dataset clips --fusion crossattn --set avc=0.5 --name paired
      avfuse retrieve runs/clips/paired -o retrieval.csv
      avfuse retrieve runs/clips/paired:crossattn --query clip-17 --from video --top 10
    """
    from avfuse.features.errors import UsageError
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.report.retrieval import measures_notes, print_measures, print_nearest
    from avfuse.pipeline.report.run_reference import read_run_ref
    from avfuse.pipeline.retrieve import find_nearest, find_query, measure_rows
    from avfuse.stages.device import choose_device
    from avfuse.stages.fuse.analysis.embeddings import contrastive_rows, split_indices
    from avfuse.stages.fuse.runs.restore import load_run_data

    if top is not None and query is None:
        raise UsageError("--top is the number of clips listed for a --query: name one, --query CLIP_ID")
    if output is not None:
        require_file(output, "-o")
    loaded = read_run_ref(run if row is None else f"{run}:{row}").run
    rows = contrastive_rows(loaded)
    if query is not None and len(rows) > 1:
        raise UsageError(f"{run} has several rows with embeddings: name one, --head ROW ({', '.join(rows)})")
    chosen = choose_device(device)
    manifest = load_manifest(cache, loaded.described["dataset"])
    data = load_run_data(loaded, manifest, cache, chosen, memory_bytes(chosen, memory_gib))
    clips = split_indices(data, split)
    if query is None:
        table = measure_rows(rows, data, clips, split, source)
        for _, measures in table.groupby("row", sort=False):
            click.echo(f"{print_measures(measures)}\n")
        groups = data.table["group"].to_numpy(dtype=object)[clips.cpu().numpy()]
        click.echo("\n".join(measures_notes(loaded, split, groups)))
    else:
        ((name, heads),) = rows.items()
        index, modality = find_query(data, query), source or "audio"
        nearest = find_nearest(heads, data, manifest, clips, index, modality)
        table = nearest.head(top or DEFAULT_TOP)
        click.echo(print_nearest(loaded, name, data, index, modality, split, nearest, len(table)))
    if output is not None:
        table.to_csv(output, index=False)
        click.echo(f"table in {output}")
