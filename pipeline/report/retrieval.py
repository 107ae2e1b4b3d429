"""What `avfuse retrieve` prints and writes."""

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest
from avfuse.pipeline.prediction import MODALITY_WORDS
from avfuse.pipeline.report.analyses import warnings_of
from avfuse.pipeline.report.text_tables import aligned, percent
from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY, Retrieval
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.evaluation.statistics import few_groups_warning
from avfuse.stages.fuse.runs.run_folder import Run

_CLIPS = {"test": "test clips", "train": "clips that heads were trained on", "all": "clips, trained on and test"}
_TRAINED_ON = "Heads were trained on clips of this split: only --split test says what they find of new ones."


def find_query(data: FusionData, clip_id: str) -> int:
    """The index of a clip. Raises UsageError for one that the data set does not have, or that is left out."""
    known: list[str] = data.table["clip_id"].tolist()
    if clip_id in known:
        return known.index(clip_id)
    if clip_id in data.excluded:
        raise UsageError(f"--query {clip_id}: the clip was left out of training ({data.excluded[clip_id]})")
    near = difflib.get_close_matches(clip_id, known, 3) or known[:3]
    raise UsageError(f"--query {clip_id}: no clip is called so; there are {', '.join(near)}")


def measures_table(row: str, seeds: int, split: str, found: Sequence[Retrieval]) -> pd.DataFrame:
    """A line a way of searching and a measure, shares of 1 but for the median rank."""
    lines = [
        each.measures.assign(
            **{"row": row, "seeds": seeds, "split": split, "from": each.source, "to": OTHER_MODALITY[each.source]},
            queries=len(each.queries),
            candidates=each.candidates,
        )
        for each in found
    ]
    front = ["row", "seeds", "split", "from", "to", "queries", "candidates"]
    return pd.concat(lines, ignore_index=True)[[*front, "measure", "value", "low", "high", "chance"]]


def print_measures(measures: pd.DataFrame) -> str:
    """Of one row of a run."""
    first = measures.iloc[0]
    which = f"{first['queries']} {_CLIPS[first['split']]} with sound and picture"
    table = pd.DataFrame(
        {
            "from": measures["from"].map(MODALITY_WORDS),
            "to": measures["to"].map(MODALITY_WORDS),
            "clips": measures["candidates"].astype(str),
            "measure": measures["measure"].map(_heading),
            "found": list(map(_value, measures["measure"], measures["value"])),
            "95 % interval": [
                f"{_value(measure, low)} - {_value(measure, high)}"
                for measure, low, high in measures[["measure", "low", "high"]].itertuples(index=False)
            ],
            "chance": list(map(_value, measures["measure"], measures["chance"])),
        }
    )
    return "\n".join(
        [
            f"{first['row']}, {_seeds(first['seeds'])}: {which}",
            "",
            aligned(table, ("from", "to", "measure")),
        ]
    )


def measures_notes(run: Run, split: str, groups: NDArray[np.object_]) -> list[str]:
    """Below all rows. groups: (n,), of the clips searched."""
    few = few_groups_warning(groups, _CLIPS[split])
    return [
        "Recall, ranks: of a clip's own partner. Precision: of clips of its class, its partner among them.",
        "Intervals: 95 %, over new groups of clips, for these heads; similarities are means over seeds.",
        *([few] if few is not None else []),
        *([_TRAINED_ON] if split != "test" else []),
        *warnings_of(run.described),
    ]


def nearest_table(data: FusionData, manifest: Manifest, query: int, nearest: pd.DataFrame) -> pd.DataFrame:
    """Clips with their `rank`, `similarity`, `clip_id`, `label` (classes of several targets joined by "+"), whether it
    is the query's `own` partner, and `path`, `start` and `end` (seconds). nearest: what `retrieval.nearest` gives, by
    index of data.table."""
    clips = {clip.clip_id: clip for clip in manifest.clips()}
    ids = data.table["clip_id"].iloc[nearest["clip"]].tolist()
    return pd.DataFrame(
        {
            "rank": nearest["rank"].to_numpy(),
            "similarity": nearest["similarity"].to_numpy(),
            "clip_id": ids,
            "label": [label_of(data, index) for index in nearest["clip"]],
            "own": (nearest["clip"] == query).to_numpy(),
            "path": [str(clips[clip_id].path) for clip_id in ids],
            "start": [clips[clip_id].start for clip_id in ids],
            "end": [clips[clip_id].end for clip_id in ids],
        }
    )


def label_of(data: FusionData, clip: int) -> str:
    """The classes of all targets of the clip at this index; a dash for those that are not known."""
    cells = [data.table[target.name].iloc[clip] for target in data.targets]
    return " + ".join("-" if pd.isna(cell) else cell for cell in cells)


def print_nearest(
    run: Run, row: str, data: FusionData, query: int, source: str, split: str, nearest: pd.DataFrame, top: int
) -> str:
    """The nearest `top` of all candidates, as `nearest_table` has them, and where the query's own partner is."""
    shown, own = nearest.head(top), nearest[nearest["own"]]
    here, there = MODALITY_WORDS[source], MODALITY_WORDS[OTHER_MODALITY[source]]
    table = pd.DataFrame(
        {
            "rank": shown["rank"].map("{:g}".format),
            "similarity": shown["similarity"].map("{:.3f}".format),
            "clip": shown["clip_id"],
            "label": shown["label"],
            "own": shown["own"].map({True: "own", False: ""}),
            "file": shown["path"],
        }
    )
    where = f"at rank {own['rank'].iloc[0]:g} of {len(nearest)}" if len(own) else f"not among the {_CLIPS[split]}"
    return "\n".join(
        [
            f"{data.table['clip_id'].iloc[query]} ({label_of(data, query)}): the {there}s nearest to its {here}, of "
            f"{len(nearest)} {_CLIPS[split]}",
            f"{row}, {_seeds(len(run.heads[row]))}; its own {there} is {where}",
            "",
            aligned(table, ("clip", "label", "own", "file")),
            *warnings_of(run.described),
        ]
    )


def _heading(measure: str) -> str:
    return f"{measure} %" if "@" in measure else measure


def _value(measure: str, value: float) -> str:
    if "@" in measure:
        return percent(value)
    return f"{value:.3f}" if measure == "mean reciprocal rank" else f"{value:g}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"
