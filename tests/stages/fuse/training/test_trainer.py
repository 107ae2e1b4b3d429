"""Training learns what is there, nothing else, and the same thing every time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.evaluation.metrics import correct
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.heads.base import STANDARD
from avfuse.stages.fuse.training import vectorized
from avfuse.stages.fuse.training.head_trainer import HeadTrainer, predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head, train_jobs
from avfuse.stages.fuse.training.vectorized import train_epochs

MakeData = Callable[..., FusionData]
QUICK = TrainingOverrides(epochs=12)
LONGEST = ("bottleneck", "alpha", "crossattn")
HEADS = [
    *(name for name in (*STANDARD, "svc", "logreg") if name not in LONGEST),
    *(pytest.param(name, marks=pytest.mark.slow) for name in LONGEST),
]


def accuracy(name: str, data: FusionData, seeds: int = 2, training: TrainingOverrides = QUICK) -> float:
    targets = data.truth[0][data.test].numpy()
    runs = [train_head(name, data, seed, training).logits for seed in range(seeds)]
    return float(np.mean([correct(logits, targets).mean() for logits in runs]))


@pytest.mark.slow
@pytest.mark.parametrize("joint_heads", [("average", "mlp"), ("crossattn", "bottleneck")])
def test_joint_heads_find_what_neither_modality_holds_alone(make_data: MakeData, joint_heads: tuple[str, ...]) -> None:
    data = make_data()
    reached = {name: accuracy(name, data) for name in ("video", "audio", *joint_heads)}
    assert reached["video"] < 0.45  # two of six classes look alike three times over
    assert reached["audio"] < 0.6
    for joint in joint_heads:
        assert reached[joint] > max(reached["video"], reached["audio"]) + 0.1, reached


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_with_shuffled_training_labels_every_head_falls_to_chance(make_data: MakeData, name: str) -> None:
    data = make_data(clips_per_class=80)
    reached = accuracy(name, data, seeds=3, training=TrainingOverrides(epochs=8, shuffle_labels=True))
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


@pytest.mark.parametrize("name", HEADS)
def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(make_data: MakeData, name: str) -> None:
    data = make_data(clips_per_class=20)
    first = train_head(name, data, 3, TrainingOverrides(epochs=3))
    torch.rand(17)
    second = train_head(name, data, 3, TrainingOverrides(epochs=3))
    np.testing.assert_array_equal(first.logits, second.logits)
    other = train_head(name, data, 4, TrainingOverrides(epochs=3))
    assert np.array_equal(first.logits, other.logits) == get_head(name).fits_without_epochs


def test_training_leaves_the_global_random_state_alone(make_data: MakeData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_head("audio", make_data(clips_per_class=10), 0, TrainingOverrides(epochs=1))
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize("missing", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONGEST else ()) for name in (*STANDARD, "alpha")],
)
def test_a_head_among_many_equals_itself_alone(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch, name: str, missing: float
) -> None:
    data = make_data(clips_per_class=30, missing=missing)
    training = TrainingOverrides(batch_size=16, lr=1e-3)
    recipe = training.recipe(name)
    inputs = HeadInputs.of(name, data, data.train, training.options(name), recipe)

    def trainers() -> list[HeadTrainer]:
        return [HeadTrainer(inputs, data.truth, recipe, seed) for seed in (4, 7, 9)]

    def losses(trained: list[HeadTrainer]) -> list[float]:
        return [each.total for each in train_epochs(trained)]

    def after_epochs(together: bool, trained: list[HeadTrainer]) -> list[list[float]]:
        monkeypatch.setattr(vectorized, "is_faster_vmapped", lambda head, device: together)
        return [losses(trained) for _ in range(4)]

    side_by_side, alone = trainers(), trainers()
    np.testing.assert_allclose(after_epochs(True, side_by_side), after_epochs(False, alone), atol=1e-5)
    for one, other in zip(side_by_side, alone, strict=True):
        torch.testing.assert_close(
            predict(one.head, inputs, data.test), predict(other.head, inputs, data.test), atol=1e-3, rtol=1e-3
        )
    # One that goes on by itself goes on as before.
    np.testing.assert_allclose(losses(side_by_side[1:2]), losses(alone[1:2]), atol=1e-5)


def test_heads_side_by_side_stop_each_at_its_own_epoch(make_data: MakeData) -> None:
    data = make_data(clips_per_class=20)
    many = train_jobs([TrainingJob.of("mlp", data, seed, TrainingOverrides(epochs=25)) for seed in range(4)])
    assert len({len(trained.curve) for trained in many}) > 1
    for seed, trained in enumerate(many):
        alone = train_head("mlp", data, seed, TrainingOverrides(epochs=25))
        assert [epoch.epoch for epoch in alone.curve] == [epoch.epoch for epoch in trained.curve]
        assert alone.best_epoch == trained.best_epoch
        np.testing.assert_allclose(alone.logits, trained.logits, atol=1e-3)
