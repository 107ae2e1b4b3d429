"""`avfuse manifest`: list the clips of a data set."""

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avfuse.pipeline.cli.options import cache_option, comma_list, require_folder

if TYPE_CHECKING:
    from avfuse.manifests import Built, Manifest
    from avfuse.manifests.subsets import Part


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
"""Of every data set."""

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
"""Of those data sets whose builders take them."""

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
            callback=lambda cache, probe, **described: _list(name, cache, probe, described),
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
    from avfuse.manifests.build import warnings
    from avfuse.manifests.splits import shared_groups

    listed = load_manifest(cache, dataset)
    crossing = shared_groups(listed.table)
    if crossing and not allow_shared_groups:
        shown = "; ".join(f"{group}: {', '.join(splits)}" for group, splits in list(crossing.items())[:5])
        raise UsageError(
            f"{len(crossing)} groups of '{dataset}' have clips in more than one split ({shown}"
            f"{'; ...' if len(crossing) > 5 else ''}): divide it by group (--folds) or allow it (--allow-shared-groups)"
        )
    for warning in warnings(listed):
        click.echo(f"note: {warning}")
    click.echo(listed.summary())
    click.echo("groups lie in one split each" if not crossing else f"{len(crossing)} groups in several splits: allowed")


def _list(dataset: str, cache: Path, probe: bool, described: dict[str, Any]) -> None:
    built = build_manifest(dataset, cache, probe, described)
    click.echo(account(built))


def build_manifest(dataset: str, cache: Path, probe: bool, described: dict[str, Any]) -> "Built":
    """Build and save a data set's manifest, and beside it what was left out."""
    from avfuse.manifests import build, save_manifest
    from avfuse.manifests.store import save_left_out

    require_folder(cache, "--cache")
    replace, format = described.pop("replace", None), described.pop("format", None)
    root, name = described.pop("root", None), described.pop("name", None)
    built = build(dataset, root, cache, name, part=_part(described), probe=probe, **described)
    save_manifest(cache, built.manifest, bool(replace), format or "parquet")
    save_left_out(cache, built.manifest.name, built.left_out)
    return built


def _part(described: dict[str, Any]) -> "Part":
    """Takes the options of a part out of the others."""
    from avfuse.manifests.subsets import Part

    taken = {name: described.pop(name, None) for name in ("fraction", "clips", "folds", "fold", "validation", "seed")}
    sampling = described.pop("sampling", None)
    return Part(**{name: value for name, value in taken.items() if value is not None}, stratified=sampling != "random")


def find_manifest(dataset: str, cache: Path, described: dict[str, Any]) -> tuple["Manifest", str]:
    """The data set of that name that was listed before, or, where something new is said of it, the builder's of that
    name; and what to say of it."""
    from avfuse.features.errors import UsageError
    from avfuse.manifests import builders, list_manifests, load_manifest

    known, is_kind = list_manifests(cache), dataset in builders()
    given = [name for name, value in described.items() if value not in (None, ())]
    if dataset in known and not given and dataset != "demo":
        listed = load_manifest(cache, dataset)
        return listed, listed.summary()
    if is_kind:
        built = build_manifest(dataset, cache, False, described)
        return built.manifest, account(built)
    if dataset in known:
        raise UsageError(
            f"data set '{dataset}' was listed before: leave --{given[0].replace('_', '-')} out, or list it again "
            "(avfuse manifest)"
        )
    before = f"listed before in {cache}: {', '.join(known)}" if known else f"none was listed before in {cache}"
    raise UsageError(f"unknown data set '{dataset}': choose from {', '.join(builders())} (folder needs ROOT); {before}")


def account(built: "Built") -> str:
    """What was listed, found and left out, split by split; what was found in the files; and what to know of it."""
    lines = [built.manifest.summary()]
    counts = built.counts
    is_official = bool((counts["expected"] >= 0).any() or (counts["listed"] != counts["used"]).any())
    if is_official:
        shown = [name for name in counts if name in ("listed", "found", "used") or (counts[name] > 0).any()]
        cells = [["", *(name.replace("_", " ") for name in shown)]]
        cells += [
            [split, *("-" if row[name] < 0 else f"{row[name]:,}" for name in shown)] for split, row in counts.iterrows()
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines += ["  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
    for split, row in counts.iterrows():
        if row["expected"] >= 0 and row["listed"] != row["expected"]:
            lines.append(
                f"note: the lists have {row['listed']:,} {split} clips, the published ones {row['expected']:,}"
            )
        if row["published"] >= 0 and row["used"] != row["published"]:  # before a part is taken
            lines.append(f"note: {row['used']:,} {split} clips are used, the paper says {row['published']:,}")
    if built.probes is not None:
        lines.append(_media(built))
    for why, count in built.left_out["why"].value_counts().items():
        example = built.left_out["clip_id"][built.left_out["why"] == why].iloc[0]
        lines.append(f"left out, {why}: {count:,} clips, such as {example}")
    return "\n".join([*lines, *(f"note: {note}" for note in built.notes)])


def _media(built: "Built") -> str:
    """One line on what the files are."""
    from tqdm import tqdm

    assert built.probes is not None
    files = built.probes.assign(path=built.manifest.table["path"]).drop_duplicates("path")
    seconds, size = files["duration_seconds"].sum(), files["size"].clip(lower=0).sum()
    length = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    parts = [f"{len(files):,} files, {length}, {tqdm.format_sizeof(size, 'B', 1024)}"]

    def commonest(texts: Any) -> str | None:
        counts = texts.dropna().value_counts()
        return f"{counts.index[0]} ({100 * counts.iloc[0] / len(files):.0f} %)" if len(counts) else None

    seen, heard = files[files["has_video"].eq(True)], files[files["has_audio"].eq(True)]
    pictures = seen["width"].map("{:.0f}".format) + "x" + seen["height"].map("{:.0f}".format)
    rates = seen["frames_per_second"].dropna().map("{:.4g} fps".format)
    sounds = heard["sample_rate_hz"].map(lambda rate: f"{rate / 1000:g} kHz") + heard["channels"].map(
        lambda channels: {1: " mono", 2: " stereo"}.get(channels, f" {channels:.0f} channels")
    )
    parts += [text for text in (commonest(pictures), commonest(rates), commonest(sounds)) if text is not None]
    without = len(files) - len(heard) - int(files["problem"].notna().sum())
    if without:
        parts.append(f"{without:,} without sound")
    problems = files["problem"].dropna()
    if len(problems):
        parts.append(
            f"{len(problems):,} cannot be read, such as {files['path'][problems.index[0]]}: {problems.iloc[0]}"
        )
    return "; ".join(parts)
