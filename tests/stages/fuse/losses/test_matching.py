"""Which pairs are drawn for matching, and its loss."""

from typing import Any

import pytest
import torch

from avfuse.stages.fuse.losses.matching import Matching, Pairs, draw_pairs, matching_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(clips: int = 8, seed: int = 0, **options: Any) -> Pairs:
    everyone = torch.ones(clips, dtype=torch.bool)
    pairs = draw_pairs(torch.randn(clips, clips, generator=generator(99)), everyone, generator(seed), **options)
    assert pairs is not None
    return pairs


@pytest.mark.parametrize("clips", [2, 3, 40])
@pytest.mark.parametrize("negatives", [1, 2])
def test_each_clip_gives_one_match_and_its_negatives(clips: int, negatives: int) -> None:
    pairs = drawn(clips, negatives=negatives)
    assert len(pairs.video) == len(pairs.audio) == (1 + negatives) * clips
    assert pairs.is_match.sum() == clips
    assert sorted(pairs.video[pairs.is_match].tolist()) == list(range(clips))


@pytest.mark.parametrize("negatives", [1, 2])
def test_no_clip_is_its_own_negative(negatives: int) -> None:
    for seed in range(100):
        pairs = drawn(5, seed, negatives=negatives)
        torch.testing.assert_close(pairs.is_match, pairs.video == pairs.audio)


def test_a_clip_that_would_be_its_own_hardest_negative_is_none_either() -> None:
    pairs = draw_pairs(1e4 * torch.eye(6), torch.ones(6, dtype=torch.bool), generator())
    assert pairs is not None
    torch.testing.assert_close(pairs.is_match, pairs.video == pairs.audio)


def test_each_sound_gets_another_picture_and_each_picture_another_sound() -> None:
    pairs = drawn(8)
    assert pairs.audio[8:16].tolist() == list(range(8))
    assert pairs.video[16:].tolist() == list(range(8))


def test_with_one_negative_it_is_as_often_the_picture_that_changes_as_the_sound() -> None:
    """Whose similarities are such that clip 0 is every other's hardest: what changes shows where the 0 is."""
    logits = torch.zeros(8, 8)
    logits[:, 0] = logits[0] = 1e4
    changed = torch.zeros(2)
    for seed in range(200):
        pairs = draw_pairs(logits, torch.ones(8, dtype=torch.bool), generator(seed), negatives=1)
        assert pairs is not None
        others = ~pairs.is_match
        changed += torch.stack([(pairs.video[others] == 0).sum(), (pairs.audio[others] == 0).sum()])
    assert changed[0] / changed.sum() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("negatives", [1, 2])
def test_clips_of_a_class_are_no_negatives_when_asked(negatives: int) -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0, 1])
    for seed in range(100):
        pairs = drawn(8, seed, negatives=negatives, labels=labels)
        wrong = ~pairs.is_match
        assert wrong.sum() == negatives * 8
        assert (labels[pairs.video[wrong]] != labels[pairs.audio[wrong]]).all()


def test_harder_negatives_are_drawn_more_often() -> None:
    """As often as the softmax over the other clips says, in both directions."""
    logits = torch.tensor([[9.0, 0.0, 1.0, 2.0], [0.5, 9.0, 0.0, 1.5], [0.0, 1.0, 9.0, 0.0], [2.0, 0.0, 0.0, 9.0]])
    others = logits.clone().fill_diagonal_(-torch.inf)
    source, draws = generator(), 4000
    pictures, sounds = torch.zeros(4, 4), torch.zeros(4, 4)
    for _ in range(draws):
        pairs = draw_pairs(logits, torch.ones(4, dtype=torch.bool), source)
        assert pairs is not None
        pictures[pairs.audio[4:8], pairs.video[4:8]] += 1
        sounds[pairs.video[8:], pairs.audio[8:]] += 1
    torch.testing.assert_close(pictures / draws, others.softmax(dim=1), atol=0.03, rtol=0)
    torch.testing.assert_close(sounds / draws, others.T.softmax(dim=1), atol=0.03, rtol=0)


def test_clips_without_both_modalities_are_in_no_pair() -> None:
    both = torch.tensor([True, False, True, True, False, True])
    similarity = torch.randn(6, 6, generator=generator(1))
    similarity[~both], similarity[:, ~both] = torch.nan, torch.nan
    for seed in range(50):
        pairs = draw_pairs(similarity, both, generator(seed))
        assert pairs is not None
        assert len(pairs.video) == 12
        assert both[pairs.video].all()
        assert both[pairs.audio].all()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_clips_give_no_pairs(count: int) -> None:
    assert draw_pairs(torch.zeros(4, 4), torch.arange(4) < count, generator()) is None


def test_a_batch_of_one_class_gives_no_pairs_when_its_clips_are_no_negatives() -> None:
    everyone = torch.ones(4, dtype=torch.bool)
    assert draw_pairs(torch.zeros(4, 4), everyone, generator(), labels=torch.zeros(4, dtype=torch.int64)) is None


def test_what_is_drawn_depends_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = drawn(20, seed=5)
    torch.manual_seed(2)
    for one, other in zip(first, drawn(20, seed=5), strict=True):
        torch.testing.assert_close(one, other)
    assert first.video.tolist() != drawn(20, seed=6).video.tolist()


def test_matches_are_the_second_class() -> None:
    logits = torch.tensor([[-9.0, 9.0], [9.0, -9.0]])
    assert matching_loss(logits, torch.tensor([True, False])).item() == pytest.approx(0, abs=1e-6)
    assert matching_loss(logits, torch.tensor([False, True])).item() == pytest.approx(18, abs=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    matching, source = Matching(4, 3).double(), generator()
    is_match = torch.arange(6) < 2
    weights = {name: parameter.detach() for name, parameter in matching.named_parameters()}

    def of_inputs(*given: torch.Tensor) -> torch.Tensor:
        named = dict(zip(weights, given[2:], strict=True))
        return matching_loss(torch.func.functional_call(matching, named, given[:2]), is_match)

    inputs = [torch.randn(6, dim, generator=source, dtype=torch.float64) for dim in (4, 3)]
    assert torch.autograd.gradcheck(of_inputs, [each.requires_grad_() for each in (*inputs, *weights.values())])


def test_training_tells_matches_it_never_saw() -> None:
    """A linear layer sees no products, so what it is given are fused streams: each knows a little of the other."""
    torch.manual_seed(0)
    hidden = torch.randn(200, 6)
    everyone = torch.ones(100, dtype=torch.bool)

    def fused(clips: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pairs = draw_pairs(clips @ clips.T, everyone, generator(seed))
        assert pairs is not None
        video, audio = clips[pairs.video], clips[pairs.audio]
        return (video - audio).abs(), video * audio, pairs.is_match

    matching = Matching(6, 6)
    optimiser = torch.optim.AdamW(matching.parameters(), lr=3e-2)
    for step in range(200):
        video, audio, is_match = fused(hidden[:100], step)
        optimiser.zero_grad()
        matching_loss(matching(video, audio), is_match).backward()
        optimiser.step()
    video, audio, is_match = fused(hidden[100:], seed=1000)
    right = (matching(video, audio).argmax(dim=1) == is_match.long()).float().mean()
    assert right > 0.9  # a third are matches: 0.67 for who always says no
