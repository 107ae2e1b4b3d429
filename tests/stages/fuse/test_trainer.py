"""Training learns what is there, nothing else, and the same thing every time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.fuse.data import FusionData
from stages.fuse.heads import head_names
from stages.fuse.metrics import correct
from stages.fuse.trainer import Training, train_head

MakeData = Callable[..., FusionData]
QUICK = Training(epochs=12)


def accuracy(name: str, data: FusionData, seeds: int = 2, training: Training = QUICK) -> float:
    targets = data.truth[0][data.test].numpy()
    runs = [train_head(name, data, seed, training).logits for seed in range(seeds)]
    return float(np.mean([correct(logits, targets).mean() for logits in runs]))


def test_joint_heads_find_what_neither_modality_holds_alone(make_data: MakeData) -> None:
    data = make_data()
    reached = {name: accuracy(name, data) for name in head_names()}
    assert reached["video"] < 0.45  # two of six classes look alike three times over
    assert reached["audio"] < 0.6
    for joint in ("average", "mlp", "crossattn", "bottleneck"):
        assert reached[joint] > max(reached["video"], reached["audio"]) + 0.1, reached


@pytest.mark.parametrize("name", head_names())
def test_with_shuffled_training_labels_every_head_falls_to_chance(make_data: MakeData, name: str) -> None:
    data = make_data(clips_per_class=80)
    reached = accuracy(name, data, seeds=3, training=Training(epochs=8, shuffle_labels=True))
    chance, deviation = 1 / 6, (1 / 6 * 5 / 6 / len(data.test)) ** 0.5
    assert abs(reached - chance) < 4 * deviation


def test_the_test_split_has_no_say(make_data: MakeData) -> None:
    data = make_data()
    targets = data.truth[0].clone()
    targets[data.test] = (targets[data.test] + 1) % 6
    other = replace(data, truth=(targets,))
    one, two = (train_head("mlp", each, 0, QUICK) for each in (data, other))
    assert one.best_epoch == two.best_epoch
    np.testing.assert_array_equal(one.logits, two.logits)


def test_the_epoch_is_the_best_one_on_validation(make_data: MakeData) -> None:
    trained = train_head("mlp", make_data(), 0, QUICK)
    best = max(epoch.validation_score for epoch in trained.curve)
    assert trained.curve[trained.best_epoch - 1].validation_score == best


@pytest.mark.parametrize("name", head_names())
def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(make_data: MakeData, name: str) -> None:
    data = make_data(clips_per_class=20)
    first = train_head(name, data, 3, Training(epochs=3))
    torch.rand(17)
    second = train_head(name, data, 3, Training(epochs=3))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert not np.array_equal(first.logits, train_head(name, data, 4, Training(epochs=3)).logits)


def test_training_leaves_the_global_random_state_alone(make_data: MakeData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_head("audio", make_data(clips_per_class=10), 0, Training(epochs=1))
    torch.testing.assert_close(torch.rand(3), expected)
