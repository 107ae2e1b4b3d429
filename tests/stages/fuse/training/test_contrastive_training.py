"""Contrastive losses in training: which labels they follow, and what they teach."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from grid_data import CLASSES, losses_of, make_trainer, train_batch, train_for

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.dropout import GeneratorMasks, dropout_source
from avfuse.stages.fuse.losses.contrastive import audio_video_contrast, intra_modality_contrast, recall_at_1


@pytest.mark.parametrize("several", [False, True])
def test_labels_are_the_classes_of_the_first_target(grid_data: FusionData, several: bool) -> None:
    labels = grid_data.truth[0]
    if several:  # where a clip has more than one the first counts
        named = F.one_hot(labels, CLASSES).bool()
        named[:, -1] = True
        (target,) = grid_data.targets
        grid_data = replace(grid_data, targets=Targets((replace(target, several=True, sigmoid=True),)), truth=(named,))
    trainer = make_trainer(grid_data, imc=0.5, avc=0.5, contrast_labels=True)
    batch = train_batch(trainer)
    losses = losses_of(trainer, batch)
    trainer.augment_rng.manual_seed(7)
    with dropout_source(GeneratorMasks(trainer.augment_rng)):
        outputs = trainer.head(batch.prepared, batch.present)
    assert trainer.auxiliary is not None
    embedded, own = trainer.auxiliary.embed(outputs, batch), labels[batch.index]
    torch.testing.assert_close(losses["imc"], intra_modality_contrast(embedded, own))
    torch.testing.assert_close(losses["avc"], audio_video_contrast(embedded, own))
    assert losses["avc"] != audio_video_contrast(embedded)


@pytest.mark.slow
def test_contrast_makes_sounds_find_pictures_they_never_saw(learnable: FusionData) -> None:
    """Of 50 held-out clips. Without it, the untrained common space over a head trained to classify."""

    def recall(weight: float) -> float:
        trainer = train_for(learnable, 10, avc=weight)
        assert trainer.auxiliary is not None
        batch = trainer.inputs.evaluation_batch(learnable.test)
        with torch.no_grad():
            outputs = trainer.head.eval()(batch.prepared, batch.present)
            return recall_at_1(trainer.auxiliary.embed(outputs, batch))

    reached, without = recall(0.5), recall(1e-12)
    assert without < 0.15
    assert reached > 0.4
