"""Masked reconstruction in training: what is masked, what the errors are of, and what they teach."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from grid_data import (
    CLS,
    DIM,
    SMALL,
    losses_of,
    make_trainer,
    reconstruction_errors,
    train_batch,
    train_for,
)
from torch import Tensor

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import ModalityShape
from avfuse.stages.fuse.losses.masked_reconstruction import MaskedReconstruction
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadBatch
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head


def hidden_passes(trainer: HeadTrainer, batch: HeadBatch) -> dict[str, Tensor]:
    """What the head gives of a batch with parts hidden, always the same parts."""
    trainer.head.eval()
    seen: list[dict[str, Tensor]] = []
    hook = trainer.head.register_forward_hook(lambda head, given, outputs: seen.append(outputs))
    assert trainer.auxiliary is not None
    reconstruction_errors(trainer, batch, seed=3)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("mask", ["segments", "random"])
def test_what_is_hidden_is_not_seen(grid_data: FusionData, mask: str) -> None:
    trainer = make_trainer(grid_data, masked=0.1, mask=mask)
    batch = train_batch(trainer)
    assert trainer.auxiliary is not None
    assert trainer.auxiliary.reconstruction is not None
    everyone = torch.ones(16, dtype=torch.bool)
    hidden = trainer.auxiliary.reconstruction.draw(
        batch.index, {"video": everyone, "audio": everyone}, torch.Generator().manual_seed(3)
    )
    before = hidden_passes(trainer, batch)
    for name, prefix in (("video", 0), ("audio", CLS)):
        for where, is_seen in ((hidden[name], False), (~hidden[name], True)):
            clip, token = where.nonzero()[0].tolist()
            changed = {key: value.clone() for key, value in batch.prepared.items()}
            changed[name][clip, prefix + token] += 3
            after = hidden_passes(trainer, replace(batch, prepared=changed))
            assert torch.equal(before["tokens_video"], after["tokens_video"]) != is_seen
            assert torch.equal(before["tokens_audio"], after["tokens_audio"]) != is_seen


@pytest.mark.parametrize("mask", ["segments", "random"])
def test_neither_padding_nor_what_stands_before_a_grid_is_hidden(lacking: FusionData, mask: str) -> None:
    trainer = make_trainer(lacking, masked=0.1, mask=mask)
    assert trainer.auxiliary is not None
    reconstruction = trainer.auxiliary.reconstruction
    assert reconstruction is not None
    clips = torch.arange(48)
    present = {name: lacking.modalities[name].present for name in ("video", "audio")}
    middles = torch.arange(32) * 32 + 16
    own = (middles < reconstruction.banks.valid_frames[:, None]) & present["audio"][:, None]
    batch = trainer.inputs.evaluation_batch(clips)
    times = torch.zeros(48, 128)
    for seed in range(40):
        hidden = reconstruction.draw(clips, present, torch.Generator().manual_seed(seed))
        columns = hidden["audio"].unflatten(1, (4, 32))
        assert not (columns & ~own[:, None]).any()
        torch.testing.assert_close(hidden["audio"].any(dim=1), own.any(dim=1))
        torch.testing.assert_close(hidden["video"].sum(dim=1), present["video"].long())  # one of five
        if mask == "segments":
            torch.testing.assert_close(columns.any(dim=1), columns.all(dim=1))
        given = reconstruction.hide(batch.prepared, hidden)
        torch.testing.assert_close(given["audio"][:, :CLS], batch.prepared["audio"][:, :CLS])
        assert (given["audio"][:, CLS:][hidden["audio"]] == 0).all()
        seen = ~hidden["audio"]
        torch.testing.assert_close(given["audio"][:, CLS:][seen], batch.prepared["audio"][:, CLS:][seen])
        times += hidden["audio"]
    long = reconstruction.banks.valid_frames >= 998
    assert (times[long & present["audio"]].unflatten(1, (4, 32))[:, :, :31].sum(dim=(0, 1)) > 0).all()


def test_clips_with_too_little_sound_are_counted(grid_data: FusionData) -> None:
    trainer = make_trainer(grid_data, masked=0.1)
    assert trainer.auxiliary is not None
    assert trainer.auxiliary.count_too_short(torch.arange(48)) == 1
    assert trainer.auxiliary.count_too_short(torch.arange(2, 48)) == 0
    trained = train_head("crossattn", grid_data, 0, TrainingOverrides(**{**SMALL, "epochs": 1}, masked=0.1))
    assert trained.too_short == 1
    assert train_head("crossattn", grid_data, 0, TrainingOverrides(**{**SMALL, "epochs": 1}, avc=0.5)).too_short is None


def test_the_error_is_of_the_sound_and_of_the_picture(grid_data: FusionData) -> None:
    """Equation 6 adds the two: with decoders that say nothing they are the mean squares of what is hidden."""
    trainer = make_trainer(grid_data, masked=0.1)
    assert trainer.auxiliary is not None
    for name, parameter in trainer.auxiliary.named_parameters():
        assert name.startswith("reconstruction")
        torch.nn.init.zeros_(parameter)
    clips = torch.arange(2, 18)
    batch = trainer.inputs.evaluation_batch(clips)
    errors = reconstruction_errors(trainer, batch, seed=0)
    assert errors["video"] == pytest.approx(1, abs=1e-3)  # layer-normalised
    assert grid_data.banks is not None
    own = zip(grid_data.banks.rows[clips], grid_data.banks.valid_frames[clips], strict=True)
    squares = [bank[:frames].float().square().mean() for bank, frames in own]
    assert errors["audio"] == pytest.approx(float(np.mean(squares)), rel=0.05)
    losses = losses_of(trainer, batch)
    assert losses["masked"].item() == pytest.approx(errors["video"] + errors["audio"], rel=0.05)


def test_the_picture_is_aimed_at_as_it_is_cached(lacking: FusionData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as it is standardised; and of the view that was drawn, which the batch has."""
    trainer = make_trainer(lacking, masked=0.1)
    aims: list[Tensor] = []
    original = MaskedReconstruction.errors

    def errors(self: MaskedReconstruction, fused: Any, cached_video: Tensor, *rest: Any) -> dict[str, Tensor]:
        aims.append(cached_video)
        return original(self, fused, cached_video, *rest)

    monkeypatch.setattr(MaskedReconstruction, "errors", errors)
    batch = train_batch(trainer)
    losses_of(trainer, batch)
    here = lacking.modalities["video"].present[batch.index]
    torch.testing.assert_close(aims[0][here], lacking.modalities["video"].tokens[batch.index][here])


def test_what_stands_before_the_grid_of_a_picture_is_left_alone(grid_data: FusionData) -> None:
    shapes = {"video": ModalityShape(5, 8, 1, (2, 2)), "audio": grid_data.shapes["audio"]}
    part = MaskedReconstruction(shapes, {"video": 4, "audio": 4}, "segments", grid_data.banks)
    torch.nn.init.zeros_(part.video.weight), torch.nn.init.zeros_(part.video.bias)
    clips, everyone = torch.arange(8), torch.ones(8, dtype=torch.bool)
    hidden = part.draw(clips, {"video": everyone, "audio": everyone}, torch.Generator().manual_seed(0))
    assert hidden["video"].shape == (8, 4)
    tokens = {"video": torch.ones(8, 5, 8), "audio": torch.ones(8, CLS + 128, DIM)}
    given = part.hide(tokens, hidden)["video"]
    assert (given[:, 0] == 1).all()
    torch.testing.assert_close(given[:, 1:, 0] == 0, hidden["video"])
    cached = torch.randn(8, 5, 8)
    cached[:, 0] = torch.nan
    fused = {"video": torch.randn(8, 5, 4), "audio": torch.randn(8, CLS + 128, 4)}
    assert part.errors(fused, cached, clips, hidden)["video"].item() == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_hidden_sound_and_pictures_are_made_out(learnable: FusionData) -> None:
    """Of held-out clips, against decoders that nothing has taught and the mean of the training clips."""
    fresh, trainer = make_trainer(learnable, masked=1.0), train_for(learnable, 8, masked=1.0)
    errors: list[dict[str, float]] = []
    for each in (fresh, trainer):
        assert each.auxiliary is not None
        errors.append(reconstruction_errors(each, each.inputs.evaluation_batch(learnable.test)))
    before, after = errors
    of_mean = mean_error(learnable)
    assert after["audio"] < 0.5 * min(before["audio"], of_mean)
    assert after["video"] < 0.7 * before["video"]


def mean_error(data: FusionData) -> float:
    """Of the mean filter bank of the training clips, for the sound of held-out ones."""
    assert data.banks is not None
    rows, frames = data.banks.rows.float(), data.banks.valid_frames
    mean = rows[data.train].mean(dim=0)
    own = torch.arange(1024) < frames[data.test, None]
    squares = (rows[data.test] - mean).square().mean(dim=2)
    return float(np.mean([each[here].mean() for each, here in zip(squares, own, strict=True)]))
