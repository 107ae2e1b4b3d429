"""`avfuse predict`: classes of media files by trained heads."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avfuse.features.errors import UsageError
from avfuse.pipeline.cli.options import device_option, parse_seconds
from avfuse.pipeline.output_paths import require_file, require_folder

if TYPE_CHECKING:
    from avfuse.pipeline.report.predictions import OutputFormat

NOTHING_EXIT_CODE = 1


@click.command(short_help="Predict the classes of media files with trained heads.")
@click.argument("clips", nargs=-1, required=True, metavar="CLIP...", type=click.Path(path_type=Path))
@click.option("--run", required=True, metavar="RUN[:ROW]", help="A run's folder, or a table's with one of its rows.")
@click.option("--head", help="The row, where RUN has several (default: the one with the best mean validation score).")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of classes.")
@click.option("--window", metavar="SECONDS", help="Predict sliding windows of this length.")
@click.option("--hop", metavar="SECONDS", help="Distance between the starts of windows (default: --window).")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a line per clip.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write: .json, .csv with every class, .png of windows over time, else lines of text.",
)
@click.option(
    "--weights",
    default="auto",
    show_default=True,
    help="Weights of backbones, where heads were not trained on the published ones: a file, a folder, or NAME=FILE,...",
)
@click.option(
    "--explain",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write a heatmap picture per clip; of windows, for the most confident one of each file.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Decode processes (default: one per core).")
@device_option
def predict(
    clips: tuple[Path, ...],
    run: str,
    head: str | None,
    top: int,
    window: str | None,
    hop: str | None,
    as_json: bool,
    output: Path | None,
    weights: str,
    explain: Path | None,
    workers: int | None,
    device: str,
) -> None:
    """Predict the likeliest classes of every CLIP, a media file with picture, sound or both, with the heads of RUN.

    Features are extracted as for training, and are not kept. A clip that cannot be read is named with its reason and
    skipped; the exit code is 1 if no clip could be predicted.

    \b
    Examples:
      avfuse predict a.mp4 b.wav --run runs/clips/all
      avfuse predict a.mp4 --run runs/clips/all:crossattn --json
      avfuse predict long.mp4 --run runs/clips/all --head mlp --window 4 --hop 1 -o timeline.png
      avfuse predict a.mp4 b.mp4 --run runs/clips/all --explain pictures
      avfuse predict a.mp4 --run runs/clips/maivar-table2-lite:mfcc-fusion
    """
    output_format = _output_format(as_json, output, window)
    if output is not None:
        require_file(output, "-o")
    if explain is not None:
        require_folder(explain, "--explain")
    from avfuse.features.backbones import WeightsChoice
    from avfuse.pipeline.extraction import licence_notices
    from avfuse.pipeline.predict import predict as predict_files
    from avfuse.pipeline.report.analyses import warnings_of
    from avfuse.pipeline.report.predictions import output_lines, print_pictures, print_summary

    choice = WeightsChoice.parse(weights)
    result = predict_files(
        clips,
        run,
        head,
        window=parse_seconds("--window", window),
        hop=parse_seconds("--hop", hop),
        weights=choice,
        device=device,
        workers=workers,
        progress=True,
        explain=explain,
    )
    click.echo("\n".join(output_lines(result, output_format, top, output)))
    licences = licence_notices([spec for spec in result.specs if not spec.untrained], choice)
    for line in (*print_pictures(result), *licences, *warnings_of(result.run.described), print_summary(result)):
        click.echo(line, err=True)
    if all(clip.problem is not None for clip in result.clips):
        raise click.exceptions.Exit(NOTHING_EXIT_CODE)


def _output_format(as_json: bool, output: Path | None, window: str | None) -> "OutputFormat":
    """The format that --json or the suffix of -o names. Raises UsageError for options that exclude each other."""
    suffix = "" if output is None else output.suffix.lower()
    if as_json and suffix in (".csv", ".png"):
        raise UsageError(f"--json and -o {output}: name a .json file, or leave --json out")
    if suffix == ".png" and window is None:
        raise UsageError(f"-o {output}: a picture shows windows over time, so name their length (--window 4)")
    if as_json or suffix == ".json":
        return "json"
    return "csv" if suffix == ".csv" else "png" if suffix == ".png" else "text"
