"""Embeddings of heads trained with audio-video contrast."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_up_sets import INPUTS, pairs
from retrieval_cases import alone, by_name
from safetensors.torch import load_file, save_file

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.analysis.embeddings import (
    contrastive_rows,
    embed_clips,
    embed_with_head,
    split_indices,
)
from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY, evaluate_retrieval
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.runs import experiment
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.restore import load_auxiliary_losses, load_head
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import TrainedHead

CONTRAST = TrainingOverrides(avc=1, dim=32, heads=2, epochs=12, patience=12, lr=3e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FusionData:
    return made(tmp_path_factory.mktemp("cache"))


def made(cache: Path, **options: Any) -> FusionData:
    return load_data(pairs(cache, clips=200, **options), cache, INPUTS)


def train(data: FusionData, folder: Path, training: TrainingOverrides = CONTRAST, seeds: int = 1) -> Run:
    return run_experiment(data, folder, ["crossattn"], seeds, training, {"dataset": "pairs"}, progress=False)


@pytest.fixture(scope="module")
def saved(data: FusionData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[TrainedHead]]:
    """A run of two seeds, and the heads as they were before they were saved."""
    kept: list[TrainedHead] = []
    with pytest.MonkeyPatch.context() as patch:
        original = experiment._save

        def keeping(folder: Path, job: Any, trained: TrainedHead, *rest: Any) -> None:
            kept.append(trained)
            original(folder, job, trained, *rest)

        patch.setattr(experiment, "_save", keeping)
        run = train(data, tmp_path_factory.mktemp("run"), seeds=2)
    return run, kept


def recall(run: Run, data: FusionData, source: str) -> float:
    clips = split_indices(data, "test")
    every = embed_clips(run.heads["crossattn"], data, clips)
    found = evaluate_retrieval(every, source, [each[clips].numpy() for each in data.truth], alone(len(clips)))
    assert by_name(found.measures, "chance")["recall@1"] == pytest.approx(1 / 49)  # of 50 test clips one lacks each
    return by_name(found.measures)["recall@1"]


@pytest.mark.slow
def test_contrast_finds_partners_that_share_more_than_a_class(
    data: FusionData, saved: tuple[Run, list[TrainedHead]], tmp_path: Path
) -> None:
    dealt = made(tmp_path / "cache", dealt=True)
    by_class = train(data, tmp_path / "by_class", CONTRAST.updated({"contrast_labels": True}))
    by_dealt = train(dealt, tmp_path / "dealt")
    for source in OTHER_MODALITY:
        assert recall(saved[0], data, source) > 0.7
        assert recall(by_dealt, dealt, source) < 0.2
        assert recall(by_class, data, source) < recall(saved[0], data, source) - 0.2


def test_saved_heads_embed_as_they_did_when_they_were_trained(
    data: FusionData, saved: tuple[Run, list[TrainedHead]]
) -> None:
    run, kept = saved
    clips = split_indices(data, "all")
    assert clips.tolist() == list(range(200))
    found = embed_clips(run.heads["crossattn"], data, clips)
    training = TrainingOverrides(**run.described["training"])
    plan = training.options("crossattn"), training.recipe("crossattn")
    inputs = HeadInputs.of("crossattn", data, torch.cat([data.train, data.validation]), *plan)
    batch = inputs.evaluation_batch(clips)
    has = {name: data.modalities[name].present for name in OTHER_MODALITY}
    for each, trained in zip(found, kept, strict=True):
        assert trained.space is not None
        with torch.inference_mode():
            outputs = trained.head.eval()(batch.prepared, batch.present)
            own = trained.space(outputs["before_video"], outputs["before_audio"], has["video"], has["audio"])
        for name in OTHER_MODALITY:
            np.testing.assert_array_equal(each.vectors[name], getattr(own, name).numpy())
            np.testing.assert_array_equal(each.has[name], has[name].numpy())
            assert each.vectors[name].dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(each.vectors[name], axis=1), 1, atol=1e-6)
    assert (~found[0].has["audio"]).nonzero()[0].tolist() == [3]
    assert (~found[0].has["video"]).nonzero()[0].tolist() == [7]
    assert not np.array_equal(found[0].vectors["audio"], found[1].vectors["audio"])


def fitted(data: FusionData) -> HeadTrainer:
    recipe = CONTRAST.recipe("crossattn")
    inputs = HeadInputs.of("crossattn", data, data.train, CONTRAST.options("crossattn"), recipe)
    return HeadTrainer(inputs, data.truth, recipe, seed=0)


def test_embeddings_are_what_the_loss_compares(data: FusionData) -> None:
    fit = fitted(data)
    assert fit.auxiliary is not None
    found = embed_with_head(fit.head, fit.auxiliary, fit.inputs, data.test)
    with torch.no_grad():
        batch = fit.inputs.evaluation_batch(data.test)
        losses = fit.losses(batch)  # the head is in evaluation mode, as embed leaves it
    both = found.has["audio"] & found.has["video"]
    logits = torch.from_numpy(found.vectors["audio"][both] @ found.vectors["video"][both].T) / 0.07
    own = torch.arange(len(logits))
    torch.testing.assert_close(losses["avc"], (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)


def test_windows_are_averaged_and_of_unit_length(data: FusionData, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted(data)
    assert fit.auxiliary is not None
    clips = data.train[:8]
    turned = clips.roll(1)
    one, other = (embed_with_head(fit.head, fit.auxiliary, fit.inputs, which) for which in (clips, turned))
    passes = [fit.inputs.evaluation_batch(clips), fit.inputs.evaluation_batch(turned)]
    monkeypatch.setattr(HeadInputs, "evaluation_batches", lambda self, indices: iter([(torch.arange(8), passes)]))
    found = embed_with_head(fit.head, fit.auxiliary, fit.inputs, clips)
    for name in OTHER_MODALITY:
        total = one.vectors[name] + other.vectors[name]
        expected = total / np.linalg.norm(total, axis=1, keepdims=True)
        np.testing.assert_allclose(found.vectors[name], expected, atol=1e-6)


def test_splits_are_what_heads_were_trained_and_tested_on(data: FusionData) -> None:
    assert set(split_indices(data, "train").tolist()) == {*data.train.tolist(), *data.validation.tolist()}
    assert split_indices(data, "test").tolist() == data.test.tolist()


def test_heads_without_contrast_have_no_embeddings(data: FusionData, tmp_path: Path) -> None:
    settings = {"avc": 0, "epochs": 1}
    plain = train(data, tmp_path / "plain", CONTRAST.updated(settings))
    only_inside = train(data, tmp_path / "inside", CONTRAST.updated({**settings, "imc": 0.1}))
    assert not list((plain.folder / "crossattn").glob("*.space.safetensors"))
    for run in (plain, only_inside):
        with pytest.raises(UsageError, match=r"trained without audio-video contrast: train with --set avc=0.5"):
            contrastive_rows(run)
        with pytest.raises(UsageError, match=r"crossattn was trained without audio-video contrast: .*--set avc=0.5"):
            embed_clips(run.heads["crossattn"], data, data.test)


def test_heads_whose_space_is_gone_or_useless_predict_but_cannot_be_searched(data: FusionData, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", CONTRAST.updated({"epochs": 1}))
    one = run.heads["crossattn"][0]
    head = load_head(one, data)
    file = tmp_path / "run" / "crossattn" / "seed-0.space.safetensors"
    space = load_file(file)
    file.write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"seed-0\.space\.safetensors is damaged"):
        load_auxiliary_losses(one, head)
    file.write_bytes((run.folder / "crossattn" / "seed-0.safetensors").read_bytes())
    with pytest.raises(UsageError, match=r"seed-0\.space\.safetensors is not of this head"):
        load_auxiliary_losses(one, head)
    save_file({name: each * torch.nan for name, each in space.items()}, file)
    with pytest.raises(UsageError, match=r"seed-0 gives no numbers: its training diverged"):
        embed_clips([one], data, data.test)
    file.unlink()
    load_head(one, data)
    with pytest.raises(
        UsageError, match=r"seed-0\.space\.safetensors is not there.*earlier version.*run\.json"
    ) as said:
        load_auxiliary_losses(one, head)
    assert "\n" not in str(said.value)
    (run.folder / "crossattn" / "seed-0.json").unlink()
    train(data, tmp_path / "run", CONTRAST.updated({"epochs": 1}))
    assert file.exists()
