"""Building of manifests from data sets' descriptions: the clips whose files exist, and counts of the others."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.features.name_rules import check_name
from avfuse.manifests.description import DatasetDescription
from avfuse.manifests.manifest import SPLITS, Manifest, classes_in
from avfuse.manifests.media_probes import probe_media
from avfuse.manifests.splits import shared_groups
from avfuse.manifests.subsets import Subset, assign_splits, take_subset

NOT_FOUND, EMPTY, NO_AUDIO = "not found", "empty (0 bytes)", "no audio stream"


@dataclass(frozen=True)
class BuiltManifest:
    """A manifest, and which listed clips are in it."""

    manifest: Manifest
    counts: pd.DataFrame
    """A row per split of the official lists: listed, expected (-1: not published), found, missing, empty, unreadable
    and without_audio (-1: not probed), used, published (-1: no paper says)."""
    left_out: pd.DataFrame
    """clip_id, split and `why` of the listed clips that are not used."""
    notes: list[str]
    """Lines to print for the user."""
    probes: pd.DataFrame | None
    """A row per clip of the manifest, as `probe_media` gives it; None where nothing was probed."""


def finish_manifest(
    description: DatasetDescription,
    root: Path,
    cache: Path,
    name: str | None = None,
    collection: str | None = None,
    subset: Subset | None = None,
    *,
    probe: bool = False,
    jobs: int | None = None,
    guide: str = "",
) -> BuiltManifest:
    """Leave out clips whose media are missing, mark validation, take a subset.

    Args:
        description: what the builder returned.
        root: the folder of the media.
        cache: the folder in which probes are remembered.
        name, collection: what the user calls the data set and its media; None: as the description says.
        subset: the clips to take; None: all.
        probe: whether to read every file's header, as `needs_audio` does anyway.
        jobs: processes that read headers; None: one per core.
        guide: where the data come from, for the error message.

    Raises:
        UsageError: none of the listed clips is there.
    """
    subset = subset or Subset()
    own_name = name or f"{description.name}{subset.suffix}"
    collection = collection or description.collection or own_name
    check_name(own_name, "data set")
    check_name(collection, "collection")
    table = description.table
    why = pd.Series(np.where(table["path"].isna(), NOT_FOUND, ""), index=table.index)
    why = why.mask(table["path"].map(description.sizes).eq(0), EMPTY)
    if (why != "").all():
        raise UsageError(
            f"none of the {len(table):,} clips of '{description.name}' is in {root}: is it the right folder?\n\n{guide}"
        )
    probes = None
    if probe or description.needs_audio:
        present = table.index[why == ""]
        store = cache / "manifests" / "probes" / f"{collection}.parquet"
        probes = probe_media([root / path for path in table["path"][present]], store, jobs=jobs).set_index(present)
        if description.needs_audio:
            soundless = probes.index[probes["problem"].isna() & ~probes["has_audio"]]
            why.loc[soundless] = NO_AUDIO
    used = why == ""
    counts = _counts(table, why, probes, description)
    left_out = table.loc[~used, ["clip_id", "split"]].assign(why=why[~used]).reset_index(drop=True)
    split, split_notes = assign_splits(description, subset)  # of all listed clips, so that a clip stays in its split
    taken, subset_notes = take_subset(replace(split, table=split.table[used]), subset)
    manifest = Manifest(
        name=own_name,
        collection=collection,
        root=root,
        table=taken.table.reset_index(drop=True),
        provenance=taken.provenance,
        outside_root=description.outside_root,
        targets=taken.targets,
    )
    notes = [*description.notes, *split_notes, *subset_notes, *split_warnings(manifest)]
    if probes is not None:
        row_of_clip = pd.Series(probes.index, index=table["clip_id"][probes.index])
        probes = probes.loc[row_of_clip.loc[manifest.table["clip_id"]]].reset_index(drop=True)
    return BuiltManifest(manifest, counts, left_out, notes, probes)


def split_warnings(manifest: Manifest) -> list[str]:
    """Warnings about splits: groups in several of them, classes of test without a clip in train and vice versa."""
    lines = []
    crossing = shared_groups(manifest.table)
    if crossing:
        group, splits = next(iter(crossing.items()))
        lines.append(
            f"{len(crossing)} groups have clips in more than one split, such as {group} ({', '.join(splits)}): "
            "heads may recognise the group instead of the class"
        )
    table = manifest.table
    for target in manifest.targets:
        train_classes, test_classes = (
            classes_in(table[target.name][table["split"] == split], target) for split in ("train", "test")
        )
        absent = len(target.classes) - len(classes_in(table[target.name], target))
        if absent:
            lines.append(f"{absent} of {len(target.classes)} classes of '{target.name}' have no clip here")
        of = "" if target.name == "label" else f" of '{target.name}'"
        for split, other, lacking in (
            ("test", "train", test_classes - train_classes),
            ("train", "test", train_classes - test_classes),
        ):
            if lacking and train_classes and test_classes:
                lines.append(
                    f"{_classes(len(lacking))}{of} in {split} without a clip in {other}, such as '{min(lacking)}' "
                    "(--folds makes other splits)"
                )
    return lines


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _counts(
    table: pd.DataFrame, why: pd.Series, probes: pd.DataFrame | None, description: DatasetDescription
) -> pd.DataFrame:
    def per_split(mask: "pd.Series[bool]") -> pd.Series:
        return table["split"][mask].value_counts()

    present = (why == "") | (why == NO_AUDIO)
    columns = {
        "listed": table["split"].value_counts(),
        "expected": pd.Series(dict(description.expected), dtype=float),
        "found": per_split(present),
        "missing": per_split(why == NOT_FOUND),
        "empty": per_split(why == EMPTY),
        "used": per_split(why == ""),
        "published": pd.Series(dict(description.published), dtype=float),
    }
    counts = pd.DataFrame(columns).reindex([split for split in SPLITS if split in set(table["split"])])
    unknown = ["expected", "published"]
    counts[unknown] = counts[unknown].fillna(-1)
    if probes is None:
        counts["unreadable"] = counts["without_audio"] = -1
    else:
        problem = probes["problem"].notna().reindex(table.index, fill_value=False)
        soundless = (probes["problem"].isna() & ~probes["has_audio"]).reindex(table.index, fill_value=False)
        counts["unreadable"], counts["without_audio"] = per_split(problem), per_split(soundless)
    return counts.fillna(0).astype(int)
