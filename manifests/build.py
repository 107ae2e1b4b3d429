"""From what official files list to a manifest of what is there, with an account of the difference."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.features.name_rules import check_name
from avfuse.manifests.listing import Listing
from avfuse.manifests.manifest import SPLITS, Manifest, occurring
from avfuse.manifests.media_probes import probe_media
from avfuse.manifests.splits import shared_groups
from avfuse.manifests.subsets import Part, divide, take

NOT_FOUND, EMPTY, NO_AUDIO = "not found", "empty (0 bytes)", "no audio stream"


@dataclass(frozen=True)
class Built:
    """A manifest and how it came about.

    `counts` has a row per split of the official lists, with the columns listed, expected (-1: not published), found,
    missing, empty, unreadable and without_audio (-1: not probed), used, published (-1: no paper says). `left_out` holds
    clip_id, split and `why` of clips that are listed and not used. `probes` has a row per clip of the manifest, as
    `probe_media` gives it, None where nothing was probed. `notes` are what a user should know.
    """

    manifest: Manifest
    counts: pd.DataFrame
    left_out: pd.DataFrame
    notes: list[str]
    probes: pd.DataFrame | None


def finish(
    listing: Listing,
    root: Path,
    cache: Path,
    name: str | None = None,
    collection: str | None = None,
    part: Part | None = None,
    *,
    probe: bool = False,
    jobs: int | None = None,
    guide: str = "",
) -> Built:
    """Leave out what is not there, mark validation, take the part asked for.

    Raises UsageError when no clip of the lists is there at all.
    """
    part = part or Part()
    own_name = name or f"{listing.name}{part.suffix}"
    collection = collection or listing.collection or own_name
    check_name(own_name, "data set")
    check_name(collection, "collection")
    table = listing.table
    why = pd.Series(np.where(table["path"].isna(), NOT_FOUND, ""), index=table.index)
    why = why.mask(table["path"].map(listing.sizes).eq(0), EMPTY)
    if (why != "").all():
        raise UsageError(
            f"none of the {len(table):,} clips of '{listing.name}' is in {root}: is it the right folder?\n\n{guide}"
        )
    probes = None
    if probe or listing.needs_audio:
        there = table.index[why == ""]
        store = cache / "manifests" / "probes" / f"{collection}.parquet"
        probes = probe_media([root / path for path in table["path"][there]], store, jobs=jobs).set_index(there)
        if listing.needs_audio:
            soundless = probes.index[probes["problem"].isna() & ~probes["has_audio"]]
            why.loc[soundless] = NO_AUDIO
    used = why == ""
    counts = _counts(table, why, probes, listing)
    left_out = table.loc[~used, ["clip_id", "split"]].assign(why=why[~used]).reset_index(drop=True)
    divided, notes = divide(listing, part)
    taken, more = take(replace(divided, table=divided.table[used]), part)
    manifest = Manifest(
        name=own_name,
        collection=collection,
        root=root,
        table=taken.table.reset_index(drop=True),
        provenance=taken.provenance,
        outside_root=listing.outside_root,
        targets=taken.targets,
    )
    notes = [*listing.notes, *notes, *more, *warnings(manifest)]
    if probes is not None:
        at = pd.Series(probes.index, index=table["clip_id"][probes.index])
        probes = probes.loc[at.loc[manifest.table["clip_id"]]].reset_index(drop=True)
    return Built(manifest, counts, left_out, notes, probes)


def warnings(manifest: Manifest) -> list[str]:
    """What makes a data set's numbers doubtful: groups on both sides, classes of test that are not in train."""
    found = []
    crossing = shared_groups(manifest.table)
    if crossing:
        group, splits = next(iter(crossing.items()))
        found.append(
            f"{len(crossing)} groups have clips in more than one split, such as {group} ({', '.join(splits)}): "
            "heads may know them again instead of having learnt"
        )
    table = manifest.table
    for target in manifest.targets:
        known, asked = (occurring(table[target.name][table["split"] == split], target) for split in ("train", "test"))
        absent = len(target.classes) - len(occurring(table[target.name], target))
        if absent:
            found.append(f"{absent} of {len(target.classes)} classes of '{target.name}' have no clip here")
        of = "" if target.name == "label" else f" of '{target.name}'"
        for here, there, lacking in (("test", "train", asked - known), ("train", "test", known - asked)):
            if lacking and known and asked:
                found.append(
                    f"{_classes(len(lacking))}{of} in {here} without a clip in {there}, such as '{min(lacking)}' "
                    "(--folds divides otherwise)"
                )
    return found


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _counts(table: pd.DataFrame, why: pd.Series, probes: pd.DataFrame | None, listing: Listing) -> pd.DataFrame:
    def per_split(mask: "pd.Series[bool]") -> pd.Series:
        return table["split"][mask].value_counts()

    there = (why == "") | (why == NO_AUDIO)
    columns = {
        "listed": table["split"].value_counts(),
        "expected": pd.Series(dict(listing.expected), dtype=float),
        "found": per_split(there),
        "missing": per_split(why == NOT_FOUND),
        "empty": per_split(why == EMPTY),
        "used": per_split(why == ""),
        "published": pd.Series(dict(listing.published), dtype=float),
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
