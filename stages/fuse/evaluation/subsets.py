"""Subsets of the test split that benchmarks report: participants not seen in training, and rare (tail) classes.

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
    """Participant of each clip: column `participant_id`, or the prefix of groups that are all ids of EPIC-KITCHENS'
    videos (P01 of P01_11). None without either."""
    if "participant_id" in table:
        return table["participant_id"]
    prefixes = table["group"].str.extract(f"^{_KITCHEN_VIDEO}$", expand=False)
    return None if prefixes.isna().any() else prefixes


def tail_classes(labels: pd.Series, share: float = TAIL_SHARE) -> set[str]:
    """The smallest classes that together have at most `share` of the labels.

    Classes without a training clip are not among them, as in EPIC-KITCHENS-100's lists. Ties at the border go by the
    alphabet.
    """
    counts = labels.value_counts().sort_index().sort_values(kind="stable")
    return set(counts.index[counts.cumsum() <= share * counts.sum()])


def subsets(
    targets: Targets, train: pd.DataFrame, test: pd.DataFrame, tail: Mapping[str, Collection[str]] | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Membership of test clips, bool (n_test,), by subset; without subsets that the tables do not define.

    * `unseen`: participants without a training clip.
    * `tail_<target>`, or `tail` of a single target: its tail classes (see `tail_classes`). Targets of several classes
      per clip have none.
    * `tail_<joint>`, such as `tail_action`: in the tail of any target, where each has one.

    Args:
        targets: of the data set.
        train: rows of a manifest's table, all labelled clips but those of test, validation included.
        test: rows of the test clips.
        tail: names of tail classes by target, where a benchmark lists them (EPIC_100_tail_verbs.csv).

    Raises UsageError for an unknown class in `tail`.
    """
    tail = tail or {}
    members = {}
    train_participants, test_participants = participants(train), participants(test)
    if train_participants is not None and test_participants is not None:
        members["unseen"] = ~test_participants.isin(train_participants.unique()).to_numpy(dtype=bool)
    tails = {
        target.name: _in_tail(target, train, test, tail.get(target.name)) for target in targets if not target.several
    }
    members |= {f"tail_{name}" if len(targets) > 1 else "tail": in_tail for name, in_tail in tails.items()}
    if len(tails) == len(targets) > 1:
        members[f"tail_{targets.joint}"] = np.logical_or.reduce(list(tails.values()))
    return members


def subset_accuracies(
    targets: Targets, logits: Logits, truth: Sequence[Truth], parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """Accuracy within each subset that has clips: `unseen_action_top1`, `unseen_verb_top1`, `tail_verb_top1` and so on,
    or `unseen_top1` and `tail_top1` of a single target. A target's tail is measured by that target alone.

    Args:
        targets: of the data set.
        logits: (n, width).
        truth: one per target.
        parts: membership of the clips, as of `subsets`.
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
