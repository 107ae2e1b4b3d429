"""Participants not seen in training, and the tail of rare classes."""

import numpy as np
import pandas as pd
import pytest

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.subsets import participants, subset_accuracies, subsets, tail_classes

VERB, NOUN = LearnedTarget("verb", ("take", "wash", "peel")), LearnedTarget("noun", ("pan", "onion", "whisk", "egg"))
ACTION = Targets((VERB, NOUN))

TRAIN = pd.DataFrame(
    {
        "group": ["P01_01"] * 6 + ["P02_101"] * 4,
        "verb": ["take"] * 5 + ["wash"] * 3 + ["peel"] * 2,
        "noun": ["pan"] * 8 + ["onion", "whisk"],
    }
)
TEST = pd.DataFrame(
    {
        "group": ["P01_02", "P03_01", "P02_101", "P01_03"],
        "verb": ["take", "peel", "wash", "peel"],
        "noun": ["pan", "pan", "whisk", "egg"],
    }
)


def test_the_tail_is_the_smallest_classes_that_hold_a_fifth() -> None:
    labels = pd.Series(["a"] * 70 + ["b"] * 12 + ["c"] * 10 + ["d"] * 8)
    assert tail_classes(labels) == {"c", "d"}  # 18 %; with b they would hold 30
    assert tail_classes(labels, share=0.3) == {"b", "c", "d"}
    assert tail_classes(pd.Series(["a"] * 50 + ["b"] * 50)) == set()


def test_unseen_and_tail_clips_of_a_kitchen() -> None:
    found = subsets(ACTION, TRAIN, TEST)
    assert {name: each.tolist() for name, each in found.items()} == {
        "unseen": [False, True, False, False],
        "tail_verb": [False, True, False, True],
        "tail_noun": [False, False, True, False],  # egg has no training clip and is no tail class
        "tail_action": [False, True, True, True],
    }


def test_accuracy_within_subsets_is_that_of_the_challenge() -> None:
    verb = np.eye(3)[[0, 2, 1, 0]]  # the last is wrong
    noun = np.eye(4)[[0, 1, 2, 3]]  # the second is wrong
    truth = [np.array([0, 2, 1, 2]), np.array([0, 0, 2, 3])]
    measured = subset_accuracies(ACTION, np.concatenate([verb, noun], axis=1), truth, subsets(ACTION, TRAIN, TEST))
    assert measured == {
        "unseen_action_top1": 0,
        "unseen_verb_top1": 1,
        "unseen_noun_top1": 0,
        "tail_verb_top1": 0.5,
        "tail_noun_top1": 1,
        "tail_action_top1": pytest.approx(1 / 3),
    }


def test_listed_tail_classes_are_taken_as_they_are() -> None:
    listed = subsets(ACTION, TRAIN, TEST, tail={"verb": ["take"]})
    assert listed["tail_verb"].tolist() == [True, False, False, False]
    assert listed["tail_noun"].tolist() == [False, False, True, False]
    with pytest.raises(UsageError, match="'grate' is no class of verb"):
        subsets(ACTION, TRAIN, TEST, tail={"verb": ["grate"]})


def test_a_data_set_without_participants_has_a_tail_alone() -> None:
    sport = Targets((LearnedTarget("label", ("run", "ski")),))
    train = pd.DataFrame({"group": ["a", "b"] * 5, "label": ["run"] * 8 + ["ski"] * 2})
    test = pd.DataFrame({"group": ["c", "c"], "label": ["ski", "run"]})
    parts = subsets(sport, train, test)
    assert {name: each.tolist() for name, each in parts.items()} == {"tail": [True, False]}
    measured = subset_accuracies(sport, np.array([[1.0, 0], [1, 0]]), [np.array([1, 0])], parts)
    assert measured == {"tail_top1": 0}


def test_participants_have_their_own_column_or_are_in_ids_of_videos() -> None:
    named = TEST.assign(participant_id=["x", "y", "x", "x"])
    assert participants(named).tolist() == ["x", "y", "x", "x"]
    assert participants(TEST).tolist() == ["P01", "P03", "P02", "P01"]
    assert participants(TEST.assign(group=["P01_02", "P03_01", "v_Ski_g01", "P01_03"])) is None


def test_targets_of_several_classes_have_no_tail() -> None:
    sounds = Targets((VERB, LearnedTarget("noun", NOUN.classes, several=True)))
    assert list(subsets(sounds, TRAIN, TEST)) == ["unseen", "tail_verb"]


def test_a_subset_without_clips_has_no_accuracy() -> None:
    seen = TEST.iloc[[0]]
    truth = [np.array([0]), np.array([0])]
    assert subset_accuracies(ACTION, np.ones((1, 7)), truth, subsets(ACTION, TRAIN, seen)) == {}
