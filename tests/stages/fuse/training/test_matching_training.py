"""Audio-video matching in training: its pass over negatives, and how these are drawn."""

from typing import Any

import pytest
import torch
from grid_data import losses_of, make_trainer, train_batch
from torch import Tensor

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.losses.matching import Pairs
from avfuse.stages.fuse.training import auxiliary_losses as module
from avfuse.stages.fuse.training.head_trainer import HeadTrainer


class Watched:
    """A trainer whose head's passes, drawn pairs and pairs told apart are noted."""

    def __init__(self, trainer: HeadTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.alike: list[Tensor] = []
        self.pairs: list[Pairs] = []
        self.told: list[tuple[Tensor, Tensor]] = []
        trainer.head.register_forward_hook(lambda head, given, outputs: self.passes.append((given[0], outputs)))
        original = module.draw_pairs

        def draw_pairs(similarity: Tensor, *rest: Any) -> Pairs | None:
            self.alike.append(similarity)
            pairs = original(similarity, *rest)
            if pairs is not None:
                self.pairs.append(pairs)
            return pairs

        monkeypatch.setattr(module, "draw_pairs", draw_pairs)
        if trainer.auxiliary is not None and trainer.auxiliary.matching is not None:
            trainer.auxiliary.matching.register_forward_hook(lambda matching, given, logits: self.told.append(given))


@pytest.mark.parametrize("negatives", [1, 2])
def test_matching_adds_a_pass_of_wrong_pairs_alone(
    grid_data: FusionData, monkeypatch: pytest.MonkeyPatch, negatives: int
) -> None:
    trainer = make_trainer(grid_data, avc=0.5, avm=0.1, negatives=negatives)
    watched, batch = Watched(trainer, monkeypatch), train_batch(trainer)
    losses_of(trainer, batch)
    assert [len(prepared["video"]) for prepared, _ in watched.passes] == [16, 16 * negatives]
    ((pairs,), (told,)) = watched.pairs, watched.told
    assert pairs.is_match.tolist() == [True] * 16 + [False] * 16 * negatives
    (_, own), (wrong, fused) = watched.passes
    for at, name in enumerate(("video", "audio")):
        torch.testing.assert_close(told[at], torch.cat([own[f"after_{name}"], fused[f"after_{name}"]]))
        torch.testing.assert_close(wrong[name], batch.prepared[name][getattr(pairs, name)[16:]])
    assert (pairs.video[16:] != pairs.audio[16:]).all()


def test_negatives_are_hard_where_contrast_is_learned_and_else_all_alike(
    grid_data: FusionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, alike in (({"avc": 0.5}, False), ({"imc": 0.5}, True), ({}, True)):
        trainer = make_trainer(grid_data, avm=0.1, **settings)
        watched = Watched(trainer, monkeypatch)
        losses_of(trainer, train_batch(trainer))
        assert (watched.alike[0] == 0).all() == alike, settings


def test_negatives_of_another_class_are_those_of_the_labels(
    grid_data: FusionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(grid_data, avm=0.1, other_class_negatives=True)
    watched = Watched(trainer, monkeypatch)
    batch = train_batch(trainer)
    losses_of(trainer, batch)
    labels, (pairs,) = grid_data.truth[0][batch.index], watched.pairs
    wrong = ~pairs.is_match
    assert wrong.sum() == 32
    assert (labels[pairs.video[wrong]] != labels[pairs.audio[wrong]]).all()


def test_a_batch_of_one_clip_teaches_classification_alone(grid_data: FusionData) -> None:
    trainer = make_trainer(grid_data, avc=0.5, imc=0.1, avm=0.1)
    losses = losses_of(trainer, train_batch(trainer, clips=1))
    assert losses["avc"] == losses["imc"] == losses["avm"] == 0
    losses["total"].backward()
    assert losses["total"] == losses["ce"]
