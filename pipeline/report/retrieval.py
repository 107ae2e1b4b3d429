"""Retrieval measures and nearest clips as text, for `avfuse retrieve`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.pipeline.prediction import MODALITY_WORDS
from avfuse.pipeline.report.analyses import warnings_of
from avfuse.pipeline.report.text_tables import aligned, percent
from avfuse.pipeline.retrieve import true_label
from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.evaluation.statistics import few_groups_warning
from avfuse.stages.fuse.runs.run_folder import Run

_CLIPS = {"test": "test clips", "train": "clips that heads were trained on", "all": "clips, trained on and test"}
_TRAINED_ON = "Heads were trained on clips of this split: only --split test measures retrieval of new clips."


def print_measures(measures: pd.DataFrame) -> str:
    """The measures of one row of a run, as `measure_rows` gives them."""
    first = measures.iloc[0]
    searched = f"{first['queries']} {_CLIPS[first['split']]} with sound and picture"
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
            f"{first['row']}, {_seeds(first['seeds'])}: {searched}",
            "",
            aligned(table, ("from", "to", "measure")),
        ]
    )


def measures_notes(run: Run, split: str, groups: NDArray[np.object_]) -> list[str]:
    """Notes printed below all rows. groups: object (n,), the group of each searched clip."""
    few = few_groups_warning(groups, _CLIPS[split])
    return [
        "Recall and ranks are of a clip's own partner; precision counts clips of its class, its partner among them.",
        "Intervals: 95 %, over new groups of clips, for these heads; similarities are means over seeds.",
        *([few] if few is not None else []),
        *([_TRAINED_ON] if split != "test" else []),
        *warnings_of(run.described),
    ]


def print_nearest(
    run: Run, row: str, data: FusionData, query: int, source: str, split: str, nearest: pd.DataFrame, top: int
) -> str:
    """The `top` nearest of all candidates, which `find_nearest` gives, and the rank of the query's own partner."""
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
            f"{data.table['clip_id'].iloc[query]} ({true_label(data, query)}): the {there}s nearest to its {here}, of "
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
