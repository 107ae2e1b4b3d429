"""`avfuse manifest`: list the clips of a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.options import cache_option, require_folder

if TYPE_CHECKING:
    from manifests import Manifest

Command = TypeVar("Command", bound=Callable[..., Any])

BUILDER_OPTIONS = (
    click.option("--root", type=click.Path(path_type=Path), help="The folder of the media."),
    click.option("--name", help="What to call the data set (default: the folder's name)."),
    click.option("--label-column", help="folder: the column of labels.csv that holds the label."),
    click.option("--group-column", help="folder: clips that agree in this column stay on one side of a split."),
    click.option("--split-column", help="folder: the column that says train, val or test."),
    click.option(
        "--outside-root", is_flag=True, default=None, help="folder: labels.csv may name files outside the root."
    ),
    click.option("--replace", is_flag=True, help="The media have moved: the data set's name now stands for this root."),
)


def builder_options(command: Command) -> Command:
    """All options by which a data set is described."""
    for option in reversed(BUILDER_OPTIONS):
        command = option(command)
    return command


@click.command(short_help="List the clips of a data set.")
@click.argument("dataset")
@builder_options
@cache_option
def manifest(dataset: str, cache: Path, **described: Any) -> None:
    """List the clips of DATASET: one row each, with label, split and group.

    \b
    DATASET is one of
      demo     a small labelled data set with sound, rendered on the spot
      folder   your own clips: class sub-folders, or a labels.csv with a column `path` or `file`

    \b
    Examples:
      avfuse manifest demo
      avfuse manifest folder --root clips/ --label-column verb --group-column video
    """
    built = build_manifest(dataset, cache, **described)
    click.echo(built.summary())


def build_manifest(
    dataset: str, cache: Path, *, root: Path | None, name: str | None, replace: bool, **options: Any
) -> "Manifest":
    """Build and save a data set's manifest."""
    from manifests import build, save_manifest

    require_folder(cache, "--cache")
    built = build(dataset, root, cache, name, **options)
    save_manifest(cache, built, replace)
    return built
