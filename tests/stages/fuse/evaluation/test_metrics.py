"""Numbers on the test split."""

import numpy as np
import pytest

from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import (
    all_correct,
    calibration_error,
    confusion,
    correct,
    evaluate,
    jointly_correct,
    log_softmax,
    multi_label_metrics,
    per_class,
    single_label_metrics,
)

VERBS, NOUNS = tuple("abcdefg"), tuple("stuvwxyz")
ACTION = Targets((LearnedTarget("verb", VERBS), LearnedTarget("noun", NOUNS)))


def test_top1_top5_and_ties() -> None:
    logits = np.array([[9, 1, 2, 3, 4, 5, 6], [1, 9, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1, 1]], dtype=np.float32)
    targets = np.array([0, 2, 3])
    assert correct(logits, targets).tolist() == [True, False, False]  # a tie is no knowledge
    assert correct(logits, targets, k=5).tolist() == [True, False, False]
    assert correct(logits, np.array([0, 6, 3]), k=2).tolist() == [True, True, False]


def test_evaluate_against_hand_counts() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    measured = single_label_metrics(np.log(probabilities).astype(np.float32), np.array([0, 1, 1, 0]))
    assert measured["top1"] == 0.75
    assert measured["macro"] == 0.75
    assert measured["nll"] == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.6]).mean(), rel=1e-5)
    assert "top5" not in measured


def test_macro_weighs_classes_alike() -> None:
    logits = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert single_label_metrics(logits, np.array([0, 0, 0, 1]))["macro"] == 0.5


def test_confusion_rows_are_shares_of_the_true_class() -> None:
    matrix = confusion(np.eye(3, dtype=np.float32)[[0, 1, 1]], np.array([0, 0, 1]))
    assert matrix.tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]


def test_macro_f1_is_the_mean_of_f1_over_classes_that_occur() -> None:
    guesses = np.eye(4, dtype=np.float32)[[0, 0, 1, 0, 3]]
    # class 0: 2 of 3 predicted, 2 of 2 found; class 1: 1 of 1, 1 of 3; nothing is of class 2 or 3
    expected = (2 * 2 / (3 + 2) + 2 * 1 / (1 + 3)) / 2
    assert single_label_metrics(guesses, np.array([0, 0, 1, 1, 1]))["macro_f1"] == pytest.approx(expected)


def test_calibration_error_against_hand_counts() -> None:
    probabilities = np.array([[0.9, 0.1], [0.91, 0.09], [0.3, 0.7], [0.32, 0.68]])
    truth = np.array([0, 1, 1, 0])
    # bins of a fifteenth: 0.9 and 0.91 share one, half of it right; 0.7 and 0.68 another, half of it right
    expected = (abs(0.905 - 0.5) + abs(0.69 - 0.5)) / 2
    assert calibration_error(np.log(probabilities), truth) == pytest.approx(expected)
    assert calibration_error(np.array([[99.0, 0], [0, 99]]), np.array([0, 1])) == pytest.approx(0)
    assert calibration_error(np.array([[99.0, 0], [0, 99]]), np.array([1, 0])) == pytest.approx(1)


def test_probabilities_that_are_true_have_no_calibration_error_to_speak_of() -> None:
    generator = np.random.default_rng(0)
    logits = 2 * generator.standard_normal((20_000, 5))
    truth = (log_softmax(logits) + generator.gumbel(size=logits.shape)).argmax(axis=1)
    assert single_label_metrics(logits, truth)["ece"] < 0.015
    assert single_label_metrics(3 * logits, truth)["ece"] > 0.1  # too sure


def test_accuracy_by_class_has_counts_and_nothing_where_no_clip_is() -> None:
    scores = per_class(np.eye(3, dtype=np.float32)[[0, 1, 1]], np.array([0, 0, 1]), ["a", "b", "c"])
    assert scores["clips"].to_dict() == {"a": 2, "b": 1, "c": 0}
    assert scores["accuracy"].dropna().to_dict() == {"a": 0.5, "b": 1}
    of_sounds = per_class(np.eye(4, dtype=np.float32)[[0, 3, 2]], SOUNDS, list("abcd"))
    assert of_sounds["clips"].tolist() == [1, 2, 1, 0]
    assert of_sounds["accuracy"].tolist()[:3] == [1, 0.5, 1]


def test_new_measures_are_named_by_target_where_there_are_several() -> None:
    measured = evaluate(ACTION, np.eye(15, dtype=np.float32)[[0, 1]], [np.array([0, 1]), np.array([0, 1])])
    assert {"verb_macro_f1", "noun_macro_f1", "verb_ece", "noun_ece"} <= set(measured)


def test_an_action_is_right_where_verb_and_noun_are() -> None:
    verb = np.eye(7, dtype=np.float32)[[0, 1, 2, 3]]
    noun = np.eye(8, dtype=np.float32)[[0, 1, 2, 3]]
    truth = [np.array([0, 1, 6, 6]), np.array([0, 7, 2, 7])]
    logits = np.concatenate([verb, noun], axis=1)
    assert all_correct(ACTION, logits, truth).tolist() == [True, False, False, False]
    measured = evaluate(ACTION, logits, truth)
    assert [measured[f"{name}_top1"] for name in ("action", "verb", "noun")] == [0.25, 0.5, 0.5]


def test_top_5_actions_are_those_of_every_pair_ranked() -> None:
    generator = np.random.default_rng(0)
    verb, noun = (2 * generator.standard_normal((500, size)) for size in (7, 8))
    verb[:100] = verb[:100].round()  # with ties
    noun[:100] = noun[:100].round()
    truth = [generator.integers(7, size=500), generator.integers(8, size=500)]
    pairs = log_softmax(verb)[:, :, None] + log_softmax(noun)[:, None, :]
    own = pairs[np.arange(500), truth[0], truth[1]]
    rank = (pairs.reshape(500, -1) >= own[:, None]).sum(axis=1)
    np.testing.assert_array_equal(jointly_correct([verb, noun], truth, k=5), rank <= 5)
    np.testing.assert_array_equal(
        jointly_correct([verb, noun], truth, k=1), all_correct(ACTION, np.concatenate([verb, noun], axis=1), truth)
    )
    assert evaluate(ACTION, np.concatenate([verb, noun], axis=1), truth)["action_top5"] == (rank <= 5).mean()


def test_a_second_target_that_is_always_right_changes_no_accuracy() -> None:
    generator = np.random.default_rng(1)
    logits, verb = generator.standard_normal((50, 7)), generator.integers(7, size=50)
    with_sure = Targets((ACTION[0], LearnedTarget("place", ("kitchen",))))
    measured = evaluate(with_sure, np.concatenate([logits, np.zeros((50, 1))], axis=1), [verb, np.zeros(50, np.int64)])
    alone = single_label_metrics(logits, verb)
    assert (measured["all_top1"], measured["all_top5"]) == (alone["top1"], alone["top5"])


SOUNDS = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=bool)


def test_of_several_classes_one_is_enough_for_a_hit() -> None:
    logits = np.array([[1, 4, 3, 0], [5, 4, 0, 0], [2, 2, 2, 2]], dtype=np.float32)
    assert correct(logits, SOUNDS).tolist() == [True, False, False]  # a tie is no knowledge
    assert correct(logits, SOUNDS, k=2).tolist() == [True, True, False]
    both_first = np.array([[3, 3, 0, 0]], dtype=np.float32)
    assert correct(both_first, SOUNDS[:1]).tolist() == [True]  # a tie between two that are right is


def test_measures_of_several_classes_against_hand_counts() -> None:
    logits = np.array([[2, 1, -1, -1], [3, 1, -1, -1], [-2, -1, 1, -1]], dtype=np.float32)
    measured = multi_label_metrics(logits, SOUNDS, sigmoid=True)
    # predicted: {0, 1}, {0, 1}, {2}; true: {0, 1}, {1}, {2}
    assert measured["f1"] == pytest.approx(2 * 4 / (5 + 4))
    assert measured["subset"] == pytest.approx(2 / 3)
    assert measured["hit1"] == pytest.approx(2 / 3)
    # class 0: its clip is second of three (1/2); class 1: both of its clips before the third (1); class 2: first (1)
    assert measured["map"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    # labels' precision at their rank: clip one 1, 1; clip two 1/2; clip three 1
    assert measured["lwlrap"] == pytest.approx((1 + 1 + 1 / 2 + 1) / 4)
    top_one = multi_label_metrics(logits, SOUNDS, sigmoid=False)
    assert top_one["f1"] == pytest.approx(2 * 2 / (3 + 4))  # predicted: {0}, {0}, {2}
    assert top_one["subset"] == pytest.approx(1 / 3)


def test_softmax_ranks_clips_by_probability_and_not_by_logit() -> None:
    logits = np.array([[5, 9], [1, 0], [2, 3]], dtype=np.float32)
    truth = np.array([[0, 1], [1, 0], [0, 1]], dtype=bool)
    assert multi_label_metrics(logits, truth, sigmoid=False)["map"] == 1


def test_confusion_of_several_classes_has_a_clip_in_each_of_its_rows() -> None:
    matrix = confusion(np.eye(4, dtype=np.float32)[[0, 3, 2]], SOUNDS)
    assert matrix.tolist() == [[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 0]]
