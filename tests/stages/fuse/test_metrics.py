"""Numbers on the test split."""

import numpy as np
import pytest

from stages.fuse.metrics import confusion, correct, evaluate, interval


def test_top1_top5_and_ties() -> None:
    logits = np.array([[9, 1, 2, 3, 4, 5, 6], [1, 9, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1, 1]], dtype=np.float32)
    targets = np.array([0, 2, 3])
    assert correct(logits, targets).tolist() == [True, False, False]  # a tie is no knowledge
    assert correct(logits, targets, k=5).tolist() == [True, False, False]
    assert correct(logits, np.array([0, 6, 3]), k=2).tolist() == [True, True, False]


def test_evaluate_against_hand_counts() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    measured = evaluate(np.log(probabilities).astype(np.float32), np.array([0, 1, 1, 0]))
    assert measured["top1"] == 0.75
    assert measured["macro"] == 0.75
    assert measured["nll"] == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.6]).mean(), rel=1e-5)
    assert "top5" not in measured


def test_macro_weighs_classes_alike() -> None:
    logits = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert evaluate(logits, np.array([0, 0, 0, 1]))["macro"] == 0.5


def test_confusion_rows_are_shares_of_the_true_class() -> None:
    matrix = confusion(np.eye(3, dtype=np.float32)[[0, 1, 1]], np.array([0, 0, 1]))
    assert matrix.tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        group_rates = generator.beta(7, 3, size=40)
        scores = (generator.random((40, 3)) < group_rates[:, None]).astype(float).ravel()
        low, high = interval(scores, np.repeat(np.arange(40), 3))
        covered.append(low <= 0.7 <= high)
    assert 0.89 <= np.mean(covered) <= 0.99


def test_the_interval_is_wider_when_clips_of_a_group_agree() -> None:
    scores = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 5).astype(float)
    grouped = interval(scores, np.repeat(np.arange(40), 5))
    alone = interval(scores, np.arange(200))
    assert grouped[1] - grouped[0] > 1.5 * (alone[1] - alone[0])
