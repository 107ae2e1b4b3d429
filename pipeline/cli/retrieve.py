"""`avfuse retrieve`: pictures by sound, and sounds by picture."""

from pathlib import Path

import click

from avfuse.pipeline.cli.options import cache_option, device_option, memory_bytes, memory_option, require_file


@click.command(short_help="Find pictures by sound and sounds by picture, and measure how well.")
@click.argument("run")
@click.option("--head", "row", metavar="ROW", help="Which row of the run (default: all trained with contrast).")
@click.option("--query", metavar="CLIP_ID", help="List the clips nearest to this one.")
@click.option(
    "--from",
    "source",
    type=click.Choice(["audio", "video"]),
    help="The modality of queries (default: both ways, and with --query audio).",
)
@click.option("--top", type=click.IntRange(min=1), help="With --query, how many are listed (default: 5).")
@click.option(
    "--split",
    type=click.Choice(["test", "train", "all"]),
    default="test",
    show_default=True,
    help="The clips searched; train is all that heads were trained on.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A CSV file for what is printed.")
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
    """Search in the space that audio-video contrast learned, of RUN, a folder under runs/, or RUN:ROW, also a table and
    its row. Heads are to be trained with --set avc=0.5. Nothing is trained (docs/retrieval.md).

    Without --query: how often a clip's sound finds its own picture, and the reverse, beside chance. With --query: the
    clips nearest to one.

    \b
    Examples:
      avfuse fuse --dataset clips --fusion crossattn --set avc=0.5 --name paired
      avfuse retrieve runs/clips/paired -o retrieval.csv
      avfuse retrieve runs/clips/paired:crossattn --query clip-17 --from video --top 10
    """
    import numpy as np
    import pandas as pd
    import torch

    from avfuse.features.errors import UsageError
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.report.retrieval import (
        find_query,
        measures_notes,
        measures_table,
        nearest_table,
        print_measures,
        print_nearest,
    )
    from avfuse.pipeline.report.run_reference import read_run_ref
    from avfuse.stages.device import choose_device
    from avfuse.stages.fuse.analysis.embeddings import contrastive_rows, embed_clips, split_indices
    from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY, evaluate_retrieval, nearest_clips
    from avfuse.stages.fuse.runs.restore import load_run_data

    if top is not None and query is None:
        raise UsageError("--top is how many clips are listed for a --query: name one, --query CLIP_ID")
    if output is not None:
        require_file(output, "-o")
    loaded = read_run_ref(run if row is None else f"{run}:{row}").run
    rows = contrastive_rows(loaded)
    if query is not None and len(rows) > 1:
        raise UsageError(f"{run} has several rows with embeddings: name one, --head ROW ({', '.join(rows)})")
    chosen = choose_device(device)
    memory = memory_bytes(chosen, memory_gib)
    manifest = load_manifest(cache, loaded.described["dataset"])
    data = load_run_data(loaded, manifest, cache, chosen, memory)
    clips = split_indices(data, split)
    if query is None:
        truth = [each[clips].cpu().numpy() for each in data.truth]
        groups = data.table["group"].to_numpy(dtype=object)[clips.cpu().numpy()]
        tables = []
        for name, heads in rows.items():
            every = embed_clips(heads, data, clips)
            ways = [evaluate_retrieval(every, way, truth, groups) for way in OTHER_MODALITY if source in (None, way)]
            tables.append(measures_table(name, len(heads), split, ways))
            click.echo(f"{print_measures(tables[-1])}\n")
        for note in measures_notes(loaded, split, groups):
            click.echo(note)
        table = pd.concat(tables)
    else:
        ((name, heads),) = rows.items()
        wanted, way = find_query(data, query), source or "audio"
        embedded = torch.cat([clips, clips.new_tensor([wanted])]).unique()
        places = embedded.cpu().numpy()
        at, among = np.searchsorted(places, wanted), np.searchsorted(places, clips.cpu().numpy())
        found = nearest_clips(embed_clips(heads, data, embedded), way, int(at), among)
        every_one = nearest_table(data, manifest, wanted, found.assign(clip=places[found["clip"]]))
        shown = top or 5
        click.echo(print_nearest(loaded, name, data, wanted, way, split, every_one, shown))
        table = every_one.head(shown)
    if output is not None:
        table.to_csv(output, index=False)
        click.echo(f"table in {output}")
