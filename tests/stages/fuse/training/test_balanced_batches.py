"""Class-balanced batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.training.balanced_batches import balanced_batches


def epoch(labels: Tensor, classes: int, clips: int, seed: int = 0) -> Tensor:
    return balanced_batches(labels, classes, clips, torch.Generator().manual_seed(seed))


LABELS = torch.tensor([7] * 100 + [2] * 50 + [5] * 30 + [0] * 20 + [9] * 3 + [4] * 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_every_batch_has_so_many_classes_and_so_many_clips_of_each(
    of_clips: list[int], classes: int, clips: int, seed: int
) -> None:
    labels = torch.tensor(of_clips)
    classes = min(classes, len(set(of_clips)))
    batches = epoch(labels, classes, clips, seed)
    assert batches.shape == (max(1, round(len(labels) / (classes * clips))), classes * clips)
    for batch in labels[batches]:
        numbers, counts = batch.unique(return_counts=True)
        assert (len(numbers), counts.tolist()) == (classes, [clips] * classes)


def test_an_epoch_visits_as_many_clips_as_there_are() -> None:
    assert abs(epoch(LABELS, 4, 3).numel() - len(LABELS)) <= 6


def test_classes_are_equally_often_in_a_batch() -> None:
    visits = LABELS[epoch(LABELS, 4, 3)].unique(return_counts=True)[1] // 3
    assert visits.max() - visits.min() <= 1


@pytest.mark.parametrize(("clips", "too_small"), [(3, [4]), (4, [4, 9])])
def test_a_clip_is_twice_in_a_batch_only_where_its_class_has_too_few(clips: int, too_small: list[int]) -> None:
    for seed in range(20):
        for batch in epoch(LABELS, 4, clips, seed):
            of_large = batch[~torch.isin(LABELS[batch], torch.tensor(too_small))]
            assert len(of_large.unique()) == len(of_large)


def test_all_clips_of_a_class_take_their_turn_before_one_comes_again() -> None:
    batches = epoch(LABELS, 6, 2)
    for label, size in ((0, 20), (9, 3), (4, 1)):
        members = (label == LABELS).nonzero().flatten()
        visits = batches.flatten().bincount(minlength=len(LABELS))[members]
        assert len(visits) == size
        assert visits.max() - visits.min() <= 1


def test_small_classes_repeat_in_another_order_each_time() -> None:
    labels = torch.tensor([0] * 5 + [1] * 95)
    visits = epoch(labels, 2, 5)
    orders = {tuple(batch[labels[batch] == 0].tolist()) for batch in visits}
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(orders) > 5


def test_the_generator_decides_everything() -> None:
    torch.manual_seed(1)
    first = epoch(LABELS, 4, 3, seed=5)
    torch.manual_seed(2)
    torch.testing.assert_close(epoch(LABELS, 4, 3, seed=5), first)
    assert not torch.equal(epoch(LABELS, 4, 3, seed=6), first)


def test_one_generator_gives_another_epoch_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (balanced_batches(LABELS, 4, 3, generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_more_classes_than_there_are_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="batches of 8 classes: the training clips have 6"):
        epoch(LABELS, 8, 2)
