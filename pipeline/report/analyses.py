"""Contribution, robustness and gains as text, for `avfuse understand`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from avfuse.pipeline.report.results import measure_words
from avfuse.pipeline.report.text_tables import aligned, percent, points, points_span
from avfuse.stages.fuse.analysis.class_gains import ClassGains
from avfuse.stages.fuse.analysis.robustness import Robustness
from avfuse.stages.fuse.analysis.shapley_runs import ContributionRun
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.statistics import few_groups_warning
from avfuse.stages.fuse.runs.run_folder import Run

COALITIONS_SHOWN = 32
LARGEST = 10
"""Number of classes and confusions printed in each direction."""

ONE_SEED = "With one seed, how much seeds vary is unknown: the interval is over groups of test clips alone."


def caveats(metadata: Mapping[str, Any]) -> list[str]:
    """Caveats that hold for every number of a run. metadata: its run.json or contribution.json."""
    notes = []
    if (few := few_groups_warning(np.array(metadata["test_groups"], dtype=object))) is not None:
        notes.append(few)
    return notes + warnings_of(metadata)


def warnings_of(metadata: Mapping[str, Any]) -> list[str]:
    """Warnings about untrained weights and control runs."""
    warnings = []
    if metadata["training"]["shuffle_labels"]:
        warnings.append("Control run: the training labels were shuffled, so chance is the right result.")
    if metadata["untrained"]:
        warnings.append(f"UNTRAINED weights in {', '.join(metadata['untrained'])}: these numbers mean nothing.")
    return warnings


def print_contribution(run: ContributionRun) -> str:
    """Players with their Shapley values, then the coalitions, or the best `COALITIONS_SHOWN` of them."""
    metadata, players, coalitions = run.described, run.players, run.coalitions
    clips = metadata["clips"]
    score = f"{measure_words(Targets.from_dicts(metadata['targets']).measure)} %"
    values = pd.DataFrame(
        {
            "player": players["player"],
            "modality": players["modality"],
            "value": players["value"].map(points),
            "95 % interval": list(map(points_span, players["low"], players["high"])),
            "seed sd": players["seed_sd"].map(percent),
            "alone": players["alone"].map(points),
            "last": players["last"].map(points),
        }
    )
    shown = coalitions if len(coalitions) <= COALITIONS_SHOWN else coalitions.nlargest(COALITIONS_SHOWN, "accuracy")
    accuracies = pd.DataFrame(
        {
            "trained on": shown["players"].where(shown["players"] != "", "(nothing)"),
            score: shown["accuracy"].map(percent),
            "seed sd": shown["seed_sd"].map(percent),
        }
    )
    nothing, everything = coalitions["accuracy"].iloc[[0, -1]]
    return "\n".join(
        [
            f"{metadata['dataset']}: {metadata['head']} from {_seeds(metadata['seeds'])}, {clips['train']} train, "
            f"{clips['validation']} validation, {clips['test']} test clips",
            "",
            aligned(values, ("player", "modality")),
            "",
            aligned(accuracies, ("trained on",)),
            *([f"... the best of {len(coalitions)} in coalitions.csv"] if len(shown) < len(coalitions) else []),
            "",
            f"Values are Shapley values in percentage points; they add up to {points(players['value'].sum())}, from "
            f"{percent(nothing)} % of guessing the most frequent class to {percent(everything)} % of all together.",
            "Alone: what a player adds to guessing. Last: what it adds to all the others.",
            *_intervals(metadata["seeds"]),
            *caveats(metadata),
        ]
    )


def print_robustness(run: Run, row: str, result: Robustness) -> str:
    """The scores of one row under every perturbation of its test clips."""
    unchanged, changes = result.table.iloc[0], result.table.iloc[1:]
    table = pd.DataFrame(
        {
            "modality": changes["modality"],
            "change": changes["change"],
            "strength": list(map(_strength, changes["change"], changes["strength"])),
            "clips": changes["clips"].astype(str),
            "changed": changes["changed"].astype(str),
            f"{measure_words(run.targets.measure)} %": changes["accuracy"].map(percent),
            "drop": changes["drop"].map(points),
            "95 % interval": list(map(points_span, changes["low"], changes["high"])),
        }
    )
    left_out = int(changes["left_out"].max()) if len(changes) else 0
    return "\n".join(
        [
            f"{row}, {_seeds(len(run.heads[row]))}: {percent(unchanged['accuracy'])} % as the clips are",
            "",
            aligned(table, ("modality", "change")),
            *(
                [f"Up to {left_out} clips have no partner and are skipped: each drop is over the other clips."]
                if left_out
                else []
            ),
        ]
    )


def robustness_notes(run: Run) -> list[str]:
    """Notes printed below all rows."""
    return [
        "Drop: loss of accuracy on the same clips, in percentage points. Noise: signal-to-noise ratio. Shift: share of "
        "the length.",
        *_intervals(min(map(len, run.heads.values()))),
        *caveats(run.described),
    ]


def print_gains(gains: ClassGains, targets: Targets, before: str, after: str) -> str:
    """Numbers of fixed and broken clips, and the classes and confusions that change most. before, after: names of the
    rows."""
    classes, pairs = gains.classes, gains.confusions
    several = len(targets) > 1
    gained, lost = classes[classes["difference"] > 0], classes[classes["difference"] < 0].iloc[::-1]
    fewer, more = pairs[pairs["difference"] < 0], pairs[pairs["difference"] > 0]
    totals = [
        _totals(classes[classes["target"] == target.name], target, several) for target in targets if not target.several
    ]
    return "\n\n".join(
        [
            "\n".join([f"From {before} to {after}", *totals]),
            _section("Classes that gain", gained, lambda shown: _class_table(shown, several)),
            _section("Classes that lose", lost, lambda shown: _class_table(shown, several)),
            _section("Confusions that are fewer", fewer, lambda shown: _confusion_table(shown, several)),
            _section("Confusions that are more", more, lambda shown: _confusion_table(shown, several)),
            "Fixed: clips that only the second row predicts right; broken: the reverse. Means over pairs of seeds, one "
            "of each row.",
        ]
    )


def _totals(classes: pd.DataFrame, target: LearnedTarget, several: bool) -> str:
    return (
        f"{f'{target.name}: of' if several else 'Of'} {classes['clips'].sum()} test clips "
        f"{classes['fixed'].sum():.1f} are fixed and {classes['broken'].sum():.1f} broken."
    )


def _section(title: str, table: pd.DataFrame, draw: Callable[[pd.DataFrame], str]) -> str:
    if table.empty:
        return f"{title}: none"
    largest = f", the {LARGEST} largest of {len(table)}" if len(table) > LARGEST else ""
    return f"{title}{largest}:\n\n{draw(table.head(LARGEST))}"


def _class_table(classes: pd.DataFrame, several: bool) -> str:
    table = pd.DataFrame(
        {
            **({"target": classes["target"]} if several else {}),
            "class": classes["class"],
            "clips": classes["clips"].astype(str),
            "before %": classes["before"].map(percent),
            "after %": classes["after"].map(percent),
            "difference": classes["difference"].map(points),
            "fixed": classes["fixed"].map("{:.1f}".format),
            "broken": classes["broken"].map("{:.1f}".format),
        }
    )
    return aligned(table, ("target", "class"))


def _confusion_table(pairs: pd.DataFrame, several: bool) -> str:
    table = pd.DataFrame(
        {
            **({"target": pairs["target"]} if several else {}),
            "true": pairs["true"],
            "predicted": pairs["predicted"],
            "clips": pairs["clips"].astype(str),
            "before %": pairs["before"].map(percent),
            "after %": pairs["after"].map(percent),
            "difference": pairs["difference"].map(points),
        }
    )
    return aligned(table, ("target", "true", "predicted"))


def _intervals(seeds: int) -> list[str]:
    note = "Intervals: 95 %, over new seeds and new groups of test clips."
    return [note] if seeds > 1 else [note, ONE_SEED]


def _strength(change: str, strength: float) -> str:
    if np.isnan(strength):
        return ""
    return f"{strength:g} dB" if change == "noise" else f"{100 * strength:g} %"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"
