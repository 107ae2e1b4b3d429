"""`avfuse runs`: list and compare runs, and export their predictions."""

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


@runs.command(name="list", short_help="Every run and table with its data set, heads, seeds and best row.")
@runs_option
def list_them(runs: Path) -> None:
    """List every run and table with its heads or rows, seeds and the best row."""
    from avfuse.pipeline.report.results import list_runs

    lines = list_runs(runs)
    if not lines:
        click.echo(f"no runs in {runs}: avfuse fuse trains them")
    for line in lines:
        click.echo(line)


@runs.command(short_help="Compare two runs: settings, features, and paired tests of their rows.")
@click.argument("a")
@click.argument("b")
def compare(a: str, b: str) -> None:
    """Compare A and B, each RUN, a folder under runs/, or RUN:ROW, on the test clips that both have.

    Of two whole runs, rows with the same name are compared; of a table's row, its tuned heads. Printed are settings,
    features and versions that differ, both accuracies, their difference with its 95 % interval and p value over seeds
    and groups of test clips, and the differences in all other measures.

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
@click.option("--head", required=True, help="The row.")
@click.option("--seed", type=int, help="One seed (default: all, log-probabilities averaged).")
@click.option(
    "--split", type=click.Choice(["test", "unlabelled"]), default="test", show_default=True, help="The clips."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "epic"]),
    default="csv",
    show_default=True,
    help="A table for any data set, or the JSON of the EPIC-KITCHENS-100 action recognition challenge.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file.")
@click.option(
    "--sls-pt",
    type=click.IntRange(0, 5),
    default=2,
    show_default=True,
    help="epic: training data of backbones. 0 nothing, 1 public images (lite), 2 public images and video, 3 public "
    "data without labels, 4 the same and EPIC-KITCHENS, 5 private data.",
)
@click.option(
    "--sls-tl",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="epic: training labels of heads. 3 segments with start and end, as manifests have them; 0 to 2 is "
    "less, 4 and 5 more.",
)
@click.option(
    "--sls-td",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="epic: training clips of heads. 3 the official training split, 4 that and the official validation "
    "split, 5 other data too; 0 to 2 is less.",
)
def export(
    run: Path, head: str, seed: int | None, split: str, form: str, output: Path, sls_pt: int, sls_tl: int, sls_td: int
) -> None:
    """Write the predictions of a head of RUN, a folder under runs/, for its test or unlabelled clips.

    csv has a line per clip: its id and, per target, the likeliest class, its probability, and the true class where it
    is known. epic has the scores of every verb and noun and of the 100 likeliest actions; the challenge's server takes
    it zipped, as test.json. The numbers of --sls-... are its supervision levels (https://github.com/epic-kitchens/sls).

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
    missing = predictions.run.described["clips"]["unpredicted"]
    if split == "unlabelled" and missing:
        click.echo(
            f"without features, so not among them: {len(missing)} clips, such as {missing[0]} (run.json)", err=True
        )
