"""Parts of a test split that benchmarks report apart: participants not seen in training, and the tail of rare classes.

EPIC-KITCHENS-100's action recognition challenge has both (Damen et al., "Rescaling Egocentric Vision", 2022).
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import Logits, Truth, all_correct, correct

TAIL_SHARE = 0.2
_KITCHEN_VIDEO = r"(P\d{2,})_\d+"
"""EPIC-KITCHENS' ids of videos: participant, number."""


def participants(table: pd.DataFrame) -> pd.Series | None:
    """Who recorded each clip: column `participant_id`, or else what groups that are all ids of EPIC-KITCHENS' videos
    begin with (P01 of P01_11). None where neither is there."""
    if "participant_id" in table:
        return table["participant_id"]
    found = table["group"].str.extract(f"^{_KITCHEN_VIDEO}$", expand=False)
    return None if found.isna().any() else found


def tail_classes(labels: pd.Series, share: float = TAIL_SHARE) -> set[str]:
    """The smallest classes that together have no more than `share` of the labels.

    A class without a training clip is not among them, nor is one in EPIC-KITCHENS-100's lists. Of classes of one size
    at the border those first in the alphabet are.
    """
    counts = labels.value_counts().sort_index().sort_values(kind="stable")
    return set(counts.index[counts.cumsum() <= share * counts.sum()])


def subsets(
    targets: Targets, train: pd.DataFrame, test: pd.DataFrame, tail: Mapping[str, Collection[str]] | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Which test clips are in which subset, (n_test,), by name; a subset that the tables do not tell of is left out.

    * `unseen`: of participants who have no training clip.
    * `tail_<target>`, or `tail` of a single target: of its tail classes (see `tail_classes`). A target of several
      classes a clip has none.
    * `tail_<joint>`, such as `tail_action`: in the tail of any target, where each has one.

    Args:
        train, test: rows of a manifest's table. train: every labelled clip but those of test, those set aside for
            validation among them.
        tail: names of tail classes by target, where a benchmark lists them (EPIC_100_tail_verbs.csv).

    Raises UsageError for a class in `tail` that is none of its target's.
    """
    tail = tail or {}
    found = {}
    who, whose = participants(train), participants(test)
    if who is not None and whose is not None:
        found["unseen"] = ~whose.isin(who.unique()).to_numpy(dtype=bool)
    tails = {each.name: _in_tail(each, train, test, tail.get(each.name)) for each in targets if not each.several}
    found |= {f"tail_{name}" if len(targets) > 1 else "tail": each for name, each in tails.items()}
    if len(tails) == len(targets) > 1:
        found[f"tail_{targets.joint}"] = np.logical_or.reduce(list(tails.values()))
    return found


def subset_accuracies(
    targets: Targets, logits: Logits, truth: Sequence[Truth], parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """Accuracy within each subset that has clips: `unseen_action_top1`, `unseen_verb_top1`, `tail_verb_top1` and so on,
    or `unseen_top1` and `tail_top1` of a single target. A target's tail is measured by that target alone.

    logits (n, width), truth a target each, parts as of `subsets`.
    """
    several = len(targets) > 1
    right = {targets.joint: (targets.measure, all_correct(targets, logits, truth))} if several else {}
    for target, its_logits, its_truth in zip(targets, targets.split(logits), truth, strict=True):
        measure = f"{target.name}_{target.measure}" if several else target.measure
        right[target.name] = (measure, correct(its_logits, its_truth))
    return {
        f"{part.partition('_')[0]}_{measure}": float(hits[within].mean())
        for part, within in parts.items()
        for name, (measure, hits) in right.items()
        if within.any() and part in ("unseen", "tail", f"tail_{name}")
    }


def _in_tail(
    target: LearnedTarget, train: pd.DataFrame, test: pd.DataFrame, listed: Collection[str] | None
) -> NDArray[np.bool_]:
    if listed is None:
        return test[target.name].isin(tail_classes(train[target.name])).to_numpy(dtype=bool)
    if unknown := sorted(set(listed) - set(target.classes)):
        raise UsageError(
            f"tail class '{unknown[0]}' is no class of {target.name}: give the names that the manifest has"
        )
    return test[target.name].isin(set(listed)).to_numpy(dtype=bool)
