"""MAiVAR's Algorithm 1: the fusion net starts as the trained video net."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training import trainer
from avfuse.stages.fuse.training.head_trainer import HeadTrainer, predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import ParentHeads, TrainedHead, train_head, train_jobs
from avfuse.stages.fuse.training.vectorized import train_epochs

SIZES = {"hidden": "24x12"}


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=30, missing=0.1)


def parents_of(data: FusionData, training: TrainingOverrides) -> dict[str, Head]:
    jobs = TrainingJob.of("mlp", data, 5, training).parents()
    chosen = {name: train_jobs([job], keep_chosen=True)[0].chosen for name, job in jobs.items()}
    return {name: head for name, head in chosen.items() if head is not None}


def started(data: FusionData, training: TrainingOverrides, parents: dict[str, Head]) -> HeadTrainer:
    inputs = HeadInputs.of("mlp", data, data.train, training.options("mlp"), training.recipe("mlp"))
    return HeadTrainer(inputs, data.truth, training.recipe("mlp"), 5, parents)


def asked(**more: object) -> TrainingOverrides:
    return TrainingOverrides(epochs=4, init="video", **SIZES, **more)


@pytest.mark.parametrize("video", ["mean", "flatten"])
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_with_zero_the_fusion_net_is_the_video_net_before_its_first_step(
    data: FusionData, fusion: str, video: str
) -> None:
    training = asked(fusion=fusion, video=video)
    parents = parents_of(data, training)
    assert set(parents) == {"video"}
    fit = started(data, training, parents)
    inputs = HeadInputs.of(
        "video", data, data.train, TrainingOverrides(video=video, **SIZES).options("video"), fit.recipe
    )
    torch.testing.assert_close(
        predict(fit.head, fit.inputs, data.test), predict(parents["video"], inputs, data.test), rtol=1e-5, atol=1e-6
    )
    before = predict(fit.head, fit.inputs, data.test)
    train_epochs([fit])
    assert not torch.allclose(predict(fit.head, fit.inputs, data.test), before)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_the_zeros_for_the_sound_learn(data: FusionData, fusion: str) -> None:
    training = asked(fusion=fusion)
    fit = started(data, training, parents_of(data, training))
    of_sound = fit.head.bring.weight if fusion == "sum" else fit.head.classifier[0].weight[:, 16:]
    assert of_sound.abs().max() == 0
    train_epochs([fit])
    of_sound = fit.head.bring.weight if fusion == "sum" else fit.head.classifier[0].weight[:, 16:]
    assert of_sound.abs().max() > 0


def test_small_is_a_hundredth_of_a_usual_start(data: FusionData) -> None:
    training = asked(audio_block="small")
    parents = parents_of(data, training)
    fit, usual = started(data, training, parents), started(data, TrainingOverrides(**SIZES), {})
    torch.testing.assert_close(fit.head.classifier[0].weight[:, 16:], usual.head.classifier[0].weight[:, 16:] * 0.01)
    torch.testing.assert_close(fit.head.classifier[0].weight[:, :16], parents["video"].classifier[0].weight)


def test_audio_mlp_takes_the_first_layer_of_the_trained_audio_net(data: FusionData) -> None:
    training = asked(audio_block="audio_mlp")
    parents = parents_of(data, training)
    assert set(parents) == {"video", "audio"}
    fit = started(data, training, parents)
    torch.testing.assert_close(fit.head.classifier[0].weight[:, 16:], parents["audio"].classifier[0].weight)
    for layer in (3, 6):
        torch.testing.assert_close(fit.head.classifier[layer].weight, parents["video"].classifier[layer].weight)


def test_audio_mlp_has_no_place_in_a_sum(data: FusionData) -> None:
    with pytest.raises(UsageError, match="audio_block=audio_mlp has no place in fusion=sum: take zero or small"):
        train_head("mlp", data, 0, asked(audio_block="audio_mlp", fusion="sum"))


def test_while_the_epoch_is_chosen_no_parent_has_seen_validation(data: FusionData) -> None:
    """Validation clips whose pictures are their labels, told only there, must not make the chosen parent better."""
    training = asked()
    truth = data.truth[0].clone()
    truth[data.validation] = (truth[data.validation] + 1) % 6
    other = replace(data, truth=(truth,))
    job = TrainingJob.of("mlp", data, 5, training).parents()["video"]
    (one,) = train_jobs([job], keep_chosen=True)
    (two,) = train_jobs([TrainingJob.of("mlp", other, 5, training).parents()["video"]], keep_chosen=True)
    if one.best_epoch == two.best_epoch:
        for name, weight in one.chosen.state_dict().items():
            torch.testing.assert_close(weight, two.chosen.state_dict()[name], rtol=0, atol=0)
    assert not torch.equal(one.head.classifier[0].weight, two.head.classifier[0].weight)


def test_it_trains_to_the_end_and_repeats_itself(data: FusionData) -> None:
    first, second = (train_head("mlp", data, 1, asked()) for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert not np.array_equal(first.logits, train_head("mlp", data, 1, TrainingOverrides(epochs=4, **SIZES)).logits)


def test_a_parent_is_trained_once_for_all_that_start_from_it(
    data: FusionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two weight decays and two seeds are four video nets, whatever learning rates and sounds follow them."""
    trained: list[tuple[str, int, float]] = []
    original = trainer.train_jobs

    def noted(jobs: Sequence[TrainingJob], *rest: Any, **more: Any) -> list[TrainedHead]:
        trained.extend((job.head, job.seed, job.recipe.weight_decay) for job in jobs)
        return original(jobs, *rest, **more)

    monkeypatch.setattr(trainer, "train_jobs", noted)
    other_sound = replace(data.modalities["audio"], tokens=data.modalities["audio"].tokens + 1)
    sweep = {"lr": ["1e-3", "3e-3"], "weight_decay": ["0", "0.05"]}
    parents = ParentHeads()
    shared, alone = (
        [
            run_experiment(
                each, tmp_path / name / str(number), ["mlp"], 2, asked(), {}, sweep=sweep, parents=known, progress=False
            )
            for number, each in enumerate((data, replace(data, modalities={**data.modalities, "audio": other_sound})))
        ]
        for name, known in (("shared", parents), ("alone", None))
    )
    video = [one for one in trained if one[0] == "video"]
    assert sorted(video[:4]) == [("video", 0, 0.0), ("video", 0, 0.05), ("video", 1, 0.0), ("video", 1, 0.05)]
    assert len(video) == 4 + 2 * 4
    for one, other in zip(shared, alone, strict=True):
        for row, runs in one.heads.items():
            for seed, head in enumerate(runs):
                np.testing.assert_array_equal(head.logits, other.heads[row][seed].logits)


def test_a_parent_on_other_pictures_is_another(data: FusionData) -> None:
    video = data.modalities["video"]
    other = replace(data, modalities={**data.modalities, "video": replace(video, tokens=video.tokens + 1)})
    one, two = (TrainingJob.of("mlp", each, 5, asked()).parents()["video"].key for each in (data, other))
    assert one != two
