"""Finding or building the manifest of a data set that a command names, and reporting how it was built."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from avfuse.features.errors import UsageError
from avfuse.manifests import BuiltManifest, Manifest, build, builders, list_manifests, load_manifest, save_manifest
from avfuse.manifests.store import save_left_out
from avfuse.manifests.subsets import Subset

ALWAYS_BUILT = "demo"
"""Its builder renders what is missing, so it is never read back."""


def find_manifest(dataset: str, cache: Path, options: Mapping[str, Any]) -> tuple[Manifest, str]:
    """The manifest of a data set, and a text that describes it for the user.

    A data set that was listed before is loaded; a builder's name, or options that describe a data set, build it.

    Args:
        dataset: the name of a manifest in the cache, or of a builder.
        cache: the folder of manifests and features.
        options: the options that describe a data set, as `build_manifest` takes them; None or empty where not given.

    Raises:
        UsageError: no such data set, or options for one that no builder is named after.
    """
    known = list_manifests(cache)
    given = [name for name, value in options.items() if value not in (None, ())]
    if dataset in known and not given and dataset != ALWAYS_BUILT:
        manifest = load_manifest(cache, dataset)
        return manifest, manifest.summary()
    if dataset in builders():
        built = build_manifest(dataset, cache, options)
        return built.manifest, build_report(built)
    if dataset in known:
        raise UsageError(
            f"data set '{dataset}' was listed before: leave --{given[0].replace('_', '-')} out, or list it again "
            "(avfuse manifest)"
        )
    before = f"listed before in {cache}: {', '.join(known)}" if known else f"none was listed before in {cache}"
    raise UsageError(f"unknown data set '{dataset}': choose from {', '.join(builders())} (folder needs ROOT); {before}")


def build_manifest(dataset: str, cache: Path, options: Mapping[str, Any], *, probe: bool = False) -> BuiltManifest:
    """Build and save a manifest, and beside it the list of clips that it leaves out.

    Args:
        dataset: the name of a builder.
        cache: the folder of manifests and features.
        options: of the command line, by name: root, name, replace, format, those of a subset and the builder's own.
        probe: whether to read every file's header.
    """
    options = dict(options)
    replace, file_format = options.pop("replace", None), options.pop("format", None)
    root, name, subset = options.pop("root", None), options.pop("name", None), _pop_subset(options)
    built = build(dataset, root, cache, name, part=subset, probe=probe, **options)
    save_manifest(cache, built.manifest, bool(replace), file_format or "parquet")
    save_left_out(cache, built.manifest.name, built.left_out)
    return built


def _pop_subset(options: dict[str, Any]) -> Subset:
    """Take the options of a subset out of the others."""
    values = {name: options.pop(name, None) for name in ("fraction", "clips", "folds", "fold", "validation", "seed")}
    stratified = options.pop("sampling", None) != "random"
    return Subset(**{name: value for name, value in values.items() if value is not None}, stratified=stratified)


def build_report(built: BuiltManifest) -> str:
    """Lines on a manifest: its counts per split, its media, the clips left out with reasons, and notes."""
    counts = built.counts
    lines = [built.manifest.summary()]
    has_official_lists = bool((counts["expected"] >= 0).any() or (counts["listed"] != counts["used"]).any())
    if has_official_lists:
        lines += _count_table(counts)
    for split, row in counts.iterrows():
        if row["expected"] >= 0 and row["listed"] != row["expected"]:
            lines.append(
                f"note: the lists have {row['listed']:,} {split} clips, the published ones {row['expected']:,}"
            )
        if row["published"] >= 0 and row["used"] != row["published"]:  # before a subset is taken
            lines.append(f"note: {row['used']:,} {split} clips are used, the paper says {row['published']:,}")
    if built.probes is not None:
        lines.append(_media_line(built.probes.assign(path=built.manifest.table["path"])))
    for why, count in built.left_out["why"].value_counts().items():
        example = built.left_out["clip_id"][built.left_out["why"] == why].iloc[0]
        lines.append(f"left out, {why}: {count:,} clips, such as {example}")
    return "\n".join([*lines, *(f"note: {note}" for note in built.notes)])


def _count_table(counts: pd.DataFrame) -> list[str]:
    """A line per split, under the names of those columns that hold something."""
    columns = [name for name in counts if name in ("listed", "found", "used") or (counts[name] > 0).any()]
    cells = [["", *(name.replace("_", " ") for name in columns)]]
    cells += [
        [split, *("-" if row[name] < 0 else f"{row[name]:,}" for name in columns)] for split, row in counts.iterrows()
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]


def _media_line(clips: pd.DataFrame) -> str:
    """One line on the media files. clips: probes and `path`, a row per clip."""
    files = clips.drop_duplicates("path")
    seconds, size = files["duration_seconds"].sum(), files["size"].clip(lower=0).sum()
    length = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    parts = [f"{len(files):,} files, {length}, {tqdm.format_sizeof(size, 'B', 1024)}"]

    def most_common(texts: Any) -> str | None:
        counts = texts.dropna().value_counts()
        return f"{counts.index[0]} ({100 * counts.iloc[0] / len(files):.0f} %)" if len(counts) else None

    with_video, with_audio = files[files["has_video"].eq(True)], files[files["has_audio"].eq(True)]
    sizes = with_video["width"].map("{:.0f}".format) + "x" + with_video["height"].map("{:.0f}".format)
    frame_rates = with_video["frames_per_second"].dropna().map("{:.4g} fps".format)
    sounds = with_audio["sample_rate_hz"].map(lambda rate: f"{rate / 1000:g} kHz") + with_audio["channels"].map(
        lambda channels: {1: " mono", 2: " stereo"}.get(channels, f" {channels:.0f} channels")
    )
    parts += [text for text in (most_common(sizes), most_common(frame_rates), most_common(sounds)) if text is not None]
    problems = files["problem"].dropna()
    silent = len(files) - len(with_audio) - len(problems)
    if silent:
        parts.append(f"{silent:,} without sound")
    if len(problems):
        parts.append(
            f"{len(problems):,} cannot be read, such as {files['path'][problems.index[0]]}: {problems.iloc[0]}"
        )
    return "; ".join(parts)
