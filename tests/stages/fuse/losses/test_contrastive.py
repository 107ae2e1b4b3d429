"""What the contrastive losses are worth, and that they teach what they should."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avfuse.stages.fuse.losses.contrastive import (
    TEMPERATURE,
    EmbeddedClips,
    JointEmbedding,
    audio_video_contrast,
    intra_modality_contrast,
    recall_at_1,
    similarity,
)

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


def embedded(clips: int = 6, dim: int = 5, seed: int = 0) -> EmbeddedClips:
    """Clips with both modalities, at random places."""
    generator = torch.Generator().manual_seed(seed)
    video, audio = F.normalize(torch.randn(2, clips, dim, generator=generator, dtype=torch.float64), dim=2)
    present = torch.ones(clips, dtype=torch.bool)
    return EmbeddedClips(video, audio, present, present)


def lacking(whole: EmbeddedClips, no_video: list[int], no_audio: list[int]) -> EmbeddedClips:
    has_video, has_audio = whole.has_video.clone(), whole.has_audio.clone()
    has_video[no_video], has_audio[no_audio] = False, False
    return whole._replace(has_video=has_video, has_audio=has_audio)


def only(whole: EmbeddedClips, clips: list[int]) -> EmbeddedClips:
    return EmbeddedClips(*(part[clips] for part in whole))


@pytest.mark.parametrize("clips", [2, 3, 7, 64])
@pytest.mark.parametrize("labelled", [False, True])
def test_avc_is_the_logarithm_of_the_batch_where_all_clips_coincide(clips: int, labelled: bool) -> None:
    point = F.normalize(torch.randn(1, 5), dim=1).expand(clips, -1)
    present = torch.ones(clips, dtype=torch.bool)
    labels = torch.arange(clips) % 3 if labelled else None
    loss = audio_video_contrast(EmbeddedClips(point, point, present, present), labels)
    assert loss.item() == pytest.approx(math.log(clips), abs=1e-5)


def test_avc_is_the_mean_of_both_directions() -> None:
    clips = embedded()
    logits = clips.audio @ clips.video.T / TEMPERATURE
    own = torch.arange(6)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(audio_video_contrast(clips), expected)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_avc_does_not_care_which_modality_is_which(labels: Tensor | None) -> None:
    clips = embedded()
    turned = EmbeddedClips(clips.audio, clips.video, clips.has_audio, clips.has_video)
    torch.testing.assert_close(audio_video_contrast(clips, labels), audio_video_contrast(turned, labels))


def test_avc_with_a_class_for_each_clip_is_avc_without_labels() -> None:
    torch.testing.assert_close(audio_video_contrast(embedded(), torch.arange(6)), audio_video_contrast(embedded()))


def test_avc_with_labels_is_cross_entropy_to_all_clips_of_the_class() -> None:
    clips = embedded()
    same = (LABELS[:, None] == LABELS).double()
    wanted = same / same.sum(dim=1, keepdim=True)
    logits = similarity(clips)
    expected = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
    torch.testing.assert_close(audio_video_contrast(clips, LABELS), expected)


def test_imc_is_the_supervised_contrastive_loss() -> None:
    """Written out as in Khosla et al.; the one clip of class 2 is no anchor."""

    def written_out(vectors: Tensor) -> float:
        each = []
        for i in range(6):
            others = [a for a in range(6) if a != i]
            positives = [p for p in others if LABELS[p] == LABELS[i]]
            scale = torch.stack([(vectors[i] @ vectors[a] / TEMPERATURE).exp() for a in others]).sum()
            terms = [((vectors[i] @ vectors[p] / TEMPERATURE).exp() / scale).log() for p in positives]
            if terms:
                each.append(-torch.stack(terms).mean().item())
        assert len(each) == 5
        return sum(each) / len(each)

    clips = embedded()
    expected = (written_out(clips.video) + written_out(clips.audio)) / 2
    assert intra_modality_contrast(clips, LABELS).item() == pytest.approx(expected, abs=1e-9)


def test_clips_without_a_modality_take_no_part() -> None:
    clips = lacking(embedded(), no_video=[1], no_audio=[4])
    rest = [0, 2, 3, 5]
    torch.testing.assert_close(audio_video_contrast(clips), audio_video_contrast(only(clips, rest)))
    torch.testing.assert_close(
        audio_video_contrast(clips, LABELS), audio_video_contrast(only(clips, rest), LABELS[rest])
    )


def test_imc_uses_what_a_clip_has() -> None:
    whole = embedded()
    seen, heard = [0, 2, 3, 4, 5], [0, 1, 2, 3, 5]
    video_alone = EmbeddedClips(whole.video[seen], whole.video[seen], *[torch.ones(5, dtype=torch.bool)] * 2)
    audio_alone = EmbeddedClips(whole.audio[heard], whole.audio[heard], *[torch.ones(5, dtype=torch.bool)] * 2)
    expected = (
        intra_modality_contrast(video_alone, LABELS[seen]) + intra_modality_contrast(audio_alone, LABELS[heard])
    ) / 2
    clips = lacking(whole, no_video=[1], no_audio=[4])
    torch.testing.assert_close(intra_modality_contrast(clips, LABELS), expected)


@pytest.mark.parametrize("with_both", [[], [2]])
def test_fewer_than_two_clips_teach_nothing_and_break_nothing(with_both: list[int]) -> None:
    space = JointEmbedding(4, 3)
    has_audio = torch.zeros(5, dtype=torch.bool)
    has_audio[with_both] = True
    audio = torch.randn(5, 3).masked_fill(~has_audio[:, None], torch.nan)
    clips = space(torch.randn(5, 4), audio, torch.ones(5, dtype=torch.bool), has_audio)
    loss = audio_video_contrast(clips) + intra_modality_contrast(clips, torch.arange(5))
    assert loss.item() == 0
    loss.backward()
    for parameter in space.parameters():
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter))


def test_a_missing_modality_is_never_read() -> None:
    """NaN stands in its place: any use of it would show."""
    space = JointEmbedding(4, 3)
    video, audio = torch.randn(6, 4), torch.randn(6, 3)
    has_video, has_audio = torch.arange(6) != 1, torch.arange(6) != 4
    video[1], audio[4] = torch.nan, torch.nan
    clips = space(video, audio, has_video, has_audio)
    loss = audio_video_contrast(clips, LABELS) + intra_modality_contrast(clips, LABELS)
    loss.backward()
    assert loss.isfinite()
    assert similarity(clips).isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in space.parameters())


@pytest.mark.parametrize(
    "loss",
    [
        audio_video_contrast,
        lambda clips: audio_video_contrast(clips, LABELS),
        lambda clips: intra_modality_contrast(clips, LABELS),
    ],
    ids=["avc", "avc with labels", "imc"],
)
def test_gradients_are_those_of_finite_differences(loss: Callable[[EmbeddedClips], Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    space = JointEmbedding(4, 3).double()
    video = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    audio = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    has_video, has_audio = torch.arange(6) != 1, torch.arange(6) != 4
    weights = {name: parameter.detach() for name, parameter in space.named_parameters()}

    def of(video: Tensor, audio: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(weights, values, strict=True))
        return loss(torch.func.functional_call(space, named, (video, audio, has_video, has_audio)))

    inputs = [video.requires_grad_(), audio.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *given: of(*given, *weights.values()), inputs)
    values = [weight.requires_grad_() for weight in weights.values()]  # thousands: along a random direction
    assert torch.autograd.gradcheck(lambda *given: of(video.detach(), audio.detach(), *given), values, fast_mode=True)


def test_recall_counts_sounds_that_find_their_picture() -> None:
    corners = torch.eye(4)
    present = torch.ones(4, dtype=torch.bool)
    assert recall_at_1(EmbeddedClips(corners, corners, present, present)) == 1
    assert recall_at_1(EmbeddedClips(corners[[1, 0, 2, 3]], corners, present, present)) == 0.5
    assert recall_at_1(EmbeddedClips(corners[[1, 0, 2, 3]], corners, present, torch.arange(4) > 1)) == 1
    assert math.isnan(recall_at_1(EmbeddedClips(corners, corners, present, ~present)))


def test_training_makes_sounds_find_pictures_they_never_saw() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(400, 12)
    video = hidden @ torch.randn(12, 40) + 0.5 * torch.randn(400, 40)
    audio = hidden @ torch.randn(12, 30) + 0.5 * torch.randn(400, 30)
    everyone = torch.ones(100, dtype=torch.bool)
    space = JointEmbedding(40, 30)

    def held_out() -> float:
        with torch.no_grad():
            return recall_at_1(space(video[300:], audio[300:], everyone, everyone))

    untrained = held_out()
    optimiser = torch.optim.AdamW(space.parameters(), lr=1e-2)
    for _ in range(20):
        for batch in torch.randperm(300).split(100):
            optimiser.zero_grad()
            audio_video_contrast(space(video[batch], audio[batch], everyone, everyone)).backward()
            optimiser.step()
    assert untrained < 0.1
    assert held_out() > 0.5


def test_training_on_labels_brings_classes_together() -> None:
    """Classes lie in a few dimensions among louder ones. Of held-out clips: how often the nearest is of the class."""
    torch.manual_seed(0)
    labels = torch.arange(640) % 8
    corners = torch.randn(8, 6)
    video = torch.cat([corners[labels] + 0.4 * torch.randn(640, 6), 4 * torch.randn(640, 24)], dim=1)
    audio = torch.cat([corners[labels] + 0.4 * torch.randn(640, 6), 4 * torch.randn(640, 14)], dim=1)
    space = JointEmbedding(30, 20)
    everyone = torch.ones(320, dtype=torch.bool)

    def held_out() -> list[float]:
        with torch.no_grad():
            clips = space(video[320:], audio[320:], everyone, everyone)
        cosines = [(vectors @ vectors.T).fill_diagonal_(-2) for vectors in (clips.video, clips.audio)]
        return [(labels[320:][each.argmax(dim=1)] == labels[320:]).float().mean().item() for each in cosines]

    untrained = held_out()
    optimiser = torch.optim.AdamW(space.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        intra_modality_contrast(space(video[:320], audio[:320], everyone, everyone), labels[:320]).backward()
        optimiser.step()
    assert max(untrained) < 0.4
    assert min(held_out()) > 0.7
