"""`avfuse runs`: what has been trained, whether two runs differ, and predictions as files."""

from pathlib import Path

import click

from avfuse.pipeline.cli.options import runs_option
from avfuse.pipeline.output_paths import require_file


@click.group(short_help="List and compare runs, export their predictions.")
def runs() -> None:
    """Runs: named sets of trained heads.

    \b
    Examples:
      avfuse runs list
      avfuse runs compare runs/clips/all:mlp runs/clips/chroma:mlp
      avfuse runs export runs/clips/all --head crossattn --format csv -o predictions.csv
      avfuse runs export runs/epic_kitchens_100/all --head average --split unlabelled --format epic -o test.json
    """


@runs.command(name="list", short_help="Every run and table: data set, heads, seeds, the best of them.")
@runs_option
def list_them(runs: Path) -> None:
    """Every run and table under the folder of runs, with heads or rows, seeds and the best of them."""
    from avfuse.pipeline.report.results import list_runs

    found = list_runs(runs)
    if not found:
        click.echo(f"no runs in {runs}: avfuse fuse trains them")
    for line in found:
        click.echo(line)


@runs.command(short_help="Two runs side by side: what they were made with, and whether their heads differ.")
@click.argument("a")
@click.argument("b")
def compare(a: str, b: str) -> None:
    """Compare A and B, each RUN, a folder under runs/, or RUN:ROW, on the test clips that both have.

    Of two whole runs, rows that are called the same are compared; of a table's row, its tuned heads. Printed are the
    settings, features and versions that differ, both accuracies, their difference with its 95 % interval and p value
    over seeds and groups of test clips, and the difference in every other measure.

    \b
    Examples:
      avfuse runs compare runs/clips/all runs/clips/rates
      avfuse runs compare runs/clips/all:mlp runs/clips/all:crossattn
      avfuse runs compare runs/clips/maivar-table2-lite:mfcc-fusion runs/clips/maivar-table2-lite:video
    """
    from avfuse.pipeline.report.comparison import compare as compared
    from avfuse.pipeline.report.comparison import print_comparison
    from avfuse.pipeline.report.run_reference import read_run_ref

    click.echo(print_comparison(compared(read_run_ref(a), read_run_ref(b))))


@runs.command(short_help="Write a head's predictions to a file.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--head", required=True, help="Whose predictions.")
@click.option("--seed", type=int, help="Of this seed (default: all seeds, log-probabilities averaged).")
@click.option("--split", type=click.Choice(["test", "unlabelled"]), default="test", show_default=True, help="Of which.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "epic"]),
    default="csv",
    show_default=True,
    help="A table of any data set, or the JSON of EPIC-KITCHENS-100's action recognition challenge.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file.")
@click.option(
    "--sls-pt",
    type=click.IntRange(0, 5),
    default=2,
    show_default=True,
    help="epic: what backbones learned from. 0 nothing, 1 public images (lite), 2 public images and video, 3 public "
    "data without labels, 4 the same and EPIC-KITCHENS, 5 private data.",
)
@click.option(
    "--sls-tl",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="epic: which labels heads learned from. 3 segments with start and end, as manifests have them; 0 to 2 is "
    "less, 4 and 5 more.",
)
@click.option(
    "--sls-td",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="epic: which clips heads learned from. 3 the official training split, 4 that and the official validation "
    "split, 5 other data too; 0 to 2 is less.",
)
def export(
    run: Path, head: str, seed: int | None, split: str, form: str, output: Path, sls_pt: int, sls_tl: int, sls_td: int
) -> None:
    """Write what a head of RUN, a folder under runs/, says of its test or unlabelled clips. Nothing is trained again.

    csv has a line per clip: its id and, for each target, the likeliest class, its probability, and what is true where
    that is known. epic has the scores of every verb and noun and of the 100 likeliest actions; the challenge's server
    takes it zipped, as test.json. The numbers of --sls-... are its supervision levels
    (https://github.com/epic-kitchens/sls).

    \b
    Examples:
      avfuse runs export runs/clips/all --head crossattn --seed 0 -o predictions.csv
      avfuse runs export runs/epic_kitchens_100/all --head average --split unlabelled --format epic -o test.json
    """
    from avfuse.pipeline.report.exports import write_csv, write_epic
    from avfuse.stages.fuse.runs.predict import load_predictions

    predictions = load_predictions(run, head, split, seed)
    require_file(output, "-o")
    if form == "epic":
        write_epic(predictions, output, {"sls_pt": sls_pt, "sls_tl": sls_tl, "sls_td": sls_td})
    else:
        write_csv(predictions, output)
    seeds = (
        f"seed {predictions.seeds[0]}" if len(predictions.seeds) == 1 else f"{len(predictions.seeds)} seeds averaged"
    )
    click.echo(f"{output}: {len(predictions.clip_ids)} {split} clips, {head}, {seeds}")
    lost = predictions.run.described["clips"]["unpredicted"]
    if split == "unlabelled" and lost:
        click.echo(f"without features, so not among them: {len(lost)} clips, such as {lost[0]} (run.json)", err=True)
