"""`avfuse manifest`: list the clips of a data set."""

from copy import copy
from pathlib import Path
from typing import Any

import click

from avfuse.pipeline.cli.options import cache_option, comma_list
from avfuse.pipeline.output_paths import require_folder


def _comma_separated(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(comma_list(text)) if text is not None else ()


def _numbers_of_clips(context: click.Context, option: click.Parameter, text: str | None) -> dict[str, int] | None:
    from avfuse.features.errors import UsageError
    from avfuse.manifests.manifest import SPLITS

    if text is None:
        return None
    counts: dict[str, int] = {}
    for part in comma_list(text):
        split, _, count = part.partition("=")
        if split not in SPLITS or split in counts or not count.isdecimal() or int(count) < 1:
            raise UsageError(f"--clips {text}: write SPLIT=N, for example train=100,val=10,test=20")
        counts[split] = int(count)
    return counts


_PATH = click.Path(path_type=Path)

COMMON = (
    click.Option(["--root"], type=_PATH, help="The folder of the media."),
    click.Option(
        ["--annotations"], type=_PATH, help="The folder of the official files (default: the root and what lies in it)."
    ),
    click.Option(["--name"], help="What to call the data set (default: its own name, with the variant)."),
    click.Option(["--collection"], help="What to call its media, where a cache holds features of others."),
    click.Option(["--fraction"], type=float, help="Only this share of each split, such as .05."),
    click.Option(
        ["--clips"],
        callback=_numbers_of_clips,
        metavar="SPLIT=N,...",
        help="Only so many clips: train=100,val=10,test=20.",
    ),
    click.Option(
        ["--sampling"],
        type=click.Choice(["stratified", "random"]),
        help="How those are chosen: classes in proportion (default), or at random.",
    ),
    click.Option(["--folds"], type=int, help="Divide all labelled clips anew, by group, into so many folds."),
    click.Option(["--fold"], type=int, help="The fold that is test, from 1; the others are train."),
    click.Option(
        ["--validation"],
        type=float,
        help="Share of train to set aside by group (default: the data set's own way; 0: none).",
    ),
    click.Option(["--seed"], type=click.IntRange(0, 2**32 - 1), help="Of everything drawn here (default: 0)."),
    click.Option(
        ["--jobs"], type=click.IntRange(min=1), help="Processes that look into files (default: one per core)."
    ),
    click.Option(
        ["--replace"],
        is_flag=True,
        default=None,
        help="The media have moved: their name now stands for this root.",
    ),
    click.Option(
        ["--format"], type=click.Choice(["parquet", "csv"]), help="How the manifest is kept (default: parquet)."
    ),
)
"""Options of every data set."""

OWN = (
    click.Option(["--split"], type=int, help="The official split: 1 (default), 2 or 3."),
    click.Option(["--subset"], help="audio51: the 51 classes with sound (default: all)."),
    click.Option(["--variant"], help="27 or 31 classes (default: the one whose lists are there)."),
    click.Option(["--classes"], type=_PATH, help="A file with a class of Kinetics-400 a line."),
    click.Option(["--vggsounder"], type=_PATH, help="VGGSounder's labels of the test clips: its vggsounder.csv."),
    click.Option(["--vggsounder-labels"], help="Which of them count: any (default), audible or visible."),
    click.Option(["--train-list"], type=_PATH, help="Another list of training segments (a CSV file)."),
    click.Option(["--table"], type=_PATH, help="The table: a CSV file with a clip a row."),
    click.Option(["--label-column"], help="The column that holds the label."),
    click.Option(["--group-column"], help="Clips that agree in this column stay on one side of a split."),
    click.Option(["--split-column"], help="The column that says train, val, test or unlabelled."),
    click.Option(
        ["--targets"],
        callback=_comma_separated,
        help="Comma-separated columns to learn instead of the label, such as verb,noun.",
    ),
    click.Option(
        ["--several"],
        callback=_comma_separated,
        help="Comma-separated columns to learn of which a clip may have several classes, written dog|rain.",
    ),
    click.Option(["--outside-root"], is_flag=True, default=None, help="The table may name files outside the root."),
)
"""Options of those data sets whose builders take them."""

_SHOWN = ("root", "annotations", "name")


def builder_options(command: click.Command) -> click.Command:
    """Give a command that lists a data set on the way all the options that describe one, the commonest shown."""
    for option in (*COMMON, *OWN):
        if option.name not in ("jobs", "format"):
            also = copy(option)
            also.hidden = option.name not in _SHOWN
            command.params.append(also)
    return command


class _DataSets(click.Group):
    """A command for each data set, with its own options."""

    def list_commands(self, context: click.Context) -> list[str]:
        from avfuse.manifests import builders

        return [*builders(), *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        from avfuse.features.errors import UsageError
        from avfuse.manifests import builders

        if name in self.commands:
            return self.commands[name]
        known = builders()
        if name not in known:
            raise UsageError(f"unknown data set '{name}': choose from {', '.join(known)}")
        builder = known[name]
        probe = click.Option(["--probe/--no-probe"], default=True, help="Look into every file's header (default).")
        own = (option for option in OWN if option.name in builder.options)
        command = click.Command(
            name,
            params=[*COMMON, *own, probe],
            callback=lambda cache, probe, **options: _list(name, cache, probe, options),
            help=f"{builder.summary}.\n\n\b\n{builder.guide}",
            short_help=builder.summary,
        )
        return cache_option(command)


@click.group(cls=_DataSets, short_help="List the clips of a data set.")
def manifest() -> None:
    """List the clips of a data set: one row each, with label, split and group, of those files that are there.

    \b
    Examples:
      avfuse manifest ucf101 --root DIR --subset audio51
      avfuse manifest vggsound --root DIR --fraction .05
      avfuse manifest folder --root clips/ --label-column verb --group-column video
      avfuse manifest check clips
    """


@manifest.command(short_help="Refuse a data set with clips of one group on both sides of a split.")
@click.argument("dataset")
@click.option("--allow-shared-groups", is_flag=True, help="Only say so.")
@cache_option
def check(dataset: str, allow_shared_groups: bool, cache: Path) -> None:
    """Look over the data set DATASET, listed before: do clips of one group (one source video, one scene) stay in one
    split, does each clip stand there once, has every class of test a clip in train?"""
    from avfuse.features.errors import UsageError
    from avfuse.manifests import load_manifest
    from avfuse.manifests.build import split_warnings
    from avfuse.manifests.splits import shared_groups

    listed = load_manifest(cache, dataset)
    crossing = shared_groups(listed.table)
    if crossing and not allow_shared_groups:
        shown = "; ".join(f"{group}: {', '.join(splits)}" for group, splits in list(crossing.items())[:5])
        raise UsageError(
            f"{len(crossing)} groups of '{dataset}' have clips in more than one split ({shown}"
            f"{'; ...' if len(crossing) > 5 else ''}): divide it by group (--folds) or allow it (--allow-shared-groups)"
        )
    for warning in split_warnings(listed):
        click.echo(f"note: {warning}")
    click.echo(listed.summary())
    click.echo("groups lie in one split each" if not crossing else f"{len(crossing)} groups in several splits: allowed")


def _list(dataset: str, cache: Path, probe: bool, options: dict[str, Any]) -> None:
    require_folder(cache, "--cache")
    from avfuse.pipeline.data_sets import build_manifest, build_report

    click.echo(build_report(build_manifest(dataset, cache, options, probe=probe)))
