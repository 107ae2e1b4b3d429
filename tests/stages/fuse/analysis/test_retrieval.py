"""What is found between modalities: counted by hand, at chance where nothing is known, and learned by contrast."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from made_up_sets import INPUTS, pairs
from safetensors.torch import load_file, save_file

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.analysis import retrieval as module
from avfuse.stages.fuse.analysis.embeddings import (
    Embeddings,
    contrastive_rows,
    embed_clips,
    embed_with_head,
    split_indices,
)
from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY, cosine_similarity, evaluate_retrieval, nearest_clips
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


def placed(audio: Sequence[int], video: Sequence[int], **lacking: Sequence[int]) -> Embeddings:
    """Clips on corners of a cube, by number; `audio` and `video` name clips that lack the modality."""
    corners = np.eye(6, dtype=np.float32)
    has = {name: np.ones(len(audio), dtype=bool) for name in OTHER_MODALITY}
    for name, clips in lacking.items():
        has[name.removeprefix("no_")][list(clips)] = False
    return Embeddings({"audio": corners[list(audio)], "video": corners[list(video)]}, has)


def scattered(clips: int, seed: int) -> Embeddings:
    audio, video = F.normalize(torch.randn(2, clips, 8, generator=torch.Generator().manual_seed(seed)), dim=2)
    everyone = np.ones(clips, dtype=bool)
    return Embeddings({"audio": audio.numpy(), "video": video.numpy()}, {"audio": everyone, "video": everyone})


def alone(clips: int) -> np.ndarray:
    """A group for each clip."""
    return np.arange(clips).astype(object)


def by_name(measures: pd.DataFrame, column: str = "value") -> Mapping[str, float]:
    return dict(zip(measures["measure"], measures[column], strict=True))


def test_a_case_with_ties_counted_by_hand() -> None:
    """Sound 0 and 1 find pictures 0, 1 and 4 equally near, sound 2 finds its own, sound 3 finds nothing; clip 4 has no
    sound and is a candidate all the same."""
    clips = placed([0, 0, 1, 2, 5], [0, 0, 1, 3, 0], no_audio=[4])
    found = evaluate_retrieval([clips], "audio", [np.array([0, 1, 0, 1, 1])], alone(5))
    assert found.candidates == 5
    assert found.queries["clip"].tolist() == [0, 1, 2, 3]
    assert found.queries["nearer"].tolist() == [0, 0, 0, 0]
    assert found.queries["tied"].tolist() == [3, 3, 1, 5]
    assert found.queries["rank"].tolist() == [2, 2, 1, 3]
    assert by_name(found.measures) == pytest.approx(
        {
            "recall@1": (1 / 3 + 1 / 3 + 1 + 1 / 5) / 4,
            "recall@5": 1,
            "mean reciprocal rank": (11 / 18 + 11 / 18 + 1 + 137 / 300) / 4,
            "median rank": 2,
            "precision@1": (1 / 3 + 2 / 3 + 1 + 3 / 5) / 4,
            "precision@5": (2 / 5 + 3 / 5 + 2 / 5 + 3 / 5) / 4,
        }
    )
    assert by_name(found.measures, "chance") == pytest.approx(
        {
            "recall@1": 1 / 5,
            "recall@5": 1,
            "mean reciprocal rank": 137 / 300,
            "median rank": 3,
            "precision@1": 1 / 2,
            "precision@5": 1 / 2,
        }
    )


def test_the_other_way_has_other_queries_and_candidates() -> None:
    clips = placed([0, 0, 1, 2, 5], [0, 0, 1, 3, 0], no_audio=[4])
    found = evaluate_retrieval([clips], "video", [np.zeros(5, dtype=np.int64)], alone(5))
    assert found.candidates == 4
    assert found.queries["rank"].tolist() == [1.5, 1.5, 1, 2.5]
    assert by_name(found.measures)["recall@1"] == pytest.approx((1 / 2 + 1 / 2 + 1 + 1 / 4) / 4)
    assert "recall@5" not in by_name(found.measures)


@pytest.mark.parametrize("source", OTHER_MODALITY)
def test_embeddings_that_tell_nothing_come_out_at_chance(source: str) -> None:
    clips = placed([0] * 20, [0] * 20, no_video=[3])
    for labels in (np.random.default_rng(0).integers(3, size=20), np.zeros(20, dtype=np.int64)):
        measures = evaluate_retrieval([clips], source, [labels], alone(20)).measures
        assert measures["value"].tolist() == pytest.approx(measures["chance"].tolist())
        assert not measures.isna().any(axis=None)


def test_without_ties_measures_are_those_of_sorted_lists() -> None:
    clips, labels = scattered(30, seed=1), np.arange(30) % 4
    order = np.argsort(-(clips.vectors["audio"] @ clips.vectors["video"].T), axis=1)
    ranks = 1 + np.array([np.flatnonzero(row == clip)[0] for clip, row in enumerate(order)])
    found = by_name(evaluate_retrieval([clips], "audio", [labels], alone(30)).measures)
    for k in (1, 5, 10):
        assert found[f"recall@{k}"] == pytest.approx((ranks <= k).mean())
        assert found[f"precision@{k}"] == pytest.approx((labels[order[:, :k]] == labels[:, None]).mean())
    assert found["mean reciprocal rank"] == pytest.approx((1 / ranks).mean())
    assert found["median rank"] == np.median(ranks)


def test_similarities_of_seeds_are_averaged() -> None:
    one, other = scattered(6, seed=1), scattered(6, seed=2)
    each = [cosine_similarity([clips], "video", np.arange(6)) for clips in (one, other)]
    np.testing.assert_allclose(cosine_similarity([one, other], "video", np.arange(6)), np.mean(each, axis=0), atol=2e-6)
    np.testing.assert_allclose(each[0], one.vectors["video"] @ one.vectors["audio"].T, atol=2e-6)


def test_clips_that_differ_by_rounding_are_equals() -> None:
    clips = placed([0, 1, 2], [0, 0, 2])
    clips.vectors["video"][1] *= np.float32(1 + 1e-7)
    assert clips.vectors["video"][1, 0] > 1
    assert evaluate_retrieval([clips], "audio", [np.arange(3)], alone(3)).queries["rank"].tolist() == [1.5, 2, 1]


def test_queries_a_few_at_a_time_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, labels = scattered(30, seed=1), np.arange(30) % 4
    at_once = evaluate_retrieval([clips], "audio", [labels], alone(30))
    monkeypatch.setattr(module, "_BYTES", 8 * 30 * 7)
    in_parts = evaluate_retrieval([clips], "audio", [labels], alone(30))
    pd.testing.assert_frame_equal(in_parts.queries, at_once.queries)
    pd.testing.assert_frame_equal(in_parts.measures, at_once.measures)


def test_of_one_class_are_clips_that_agree_in_every_target() -> None:
    clips = placed([0, 0, 0, 0], [0, 0, 0, 0])
    verb, noun = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    several = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]], dtype=bool)

    def precision(*truth: np.ndarray) -> list[float]:
        return evaluate_retrieval([clips], "audio", truth, alone(4)).queries["precision@1"].tolist()

    assert precision(verb) == [0.5] * 4
    assert precision(verb, noun) == [0.25, 0.25, 0.5, 0.5]
    assert precision(several) == [0.75, 0.75, 0.5, 0.5]


def test_larger_groups_make_wider_intervals() -> None:
    clips, labels = scattered(200, seed=1), np.zeros(200, dtype=np.int64)
    audio = clips.vectors["audio"] + 0.9 * clips.vectors["video"] * (np.arange(200) // 20 % 2)[:, None]
    clips = Embeddings({**clips.vectors, "audio": audio}, clips.has)
    narrow, wide = (
        evaluate_retrieval([clips], "audio", [labels], groups).measures.set_index("measure").loc["recall@10"]
        for groups in (alone(200), alone(200) // 20)
    )
    assert narrow["value"] == wide["value"]
    assert wide["low"] < narrow["low"] < narrow["value"] < narrow["high"] < wide["high"]


def test_the_medians_interval_holds_the_median() -> None:
    """Of ranks that are as often 1, 2, ..., 99: 50."""
    generator = np.random.default_rng(0)
    spans = [module._median(generator.integers(1, 100, size=40).astype(float), 99, alone(40)) for _ in range(200)]
    assert all(span.low <= span.mean <= span.high for span in spans)
    assert 0.9 < np.mean([span.low <= 50 <= span.high for span in spans]) < 0.995
    assert module._median(np.ones(40), 99, alone(40)).high == 1
    assert module._median(np.ones(4), 99, np.zeros(4, dtype=object)).high == 99  # one group says nothing


def test_the_nearest_come_first_and_equals_in_their_order() -> None:
    clips = placed([0, 1, 2, 3], [1, 0, 0, 2], no_video=[3])
    found = nearest_clips([clips], "audio", 0, np.array([0, 1, 2, 3]))
    assert found["clip"].tolist() == [1, 2, 0]
    assert found["similarity"].tolist() == [1, 1, 0]
    assert found["rank"].tolist() == [1.5, 1.5, 3]
    assert nearest_clips([clips], "audio", 0, np.array([2, 3]))["clip"].tolist() == [2]
    with pytest.raises(UsageError, match="the query has no video feature: search --from audio"):
        nearest_clips([clips], "video", 3, np.array([0, 1]))
    with pytest.raises(UsageError, match="no clip of this split has a feature of video"):
        nearest_clips([clips], "audio", 0, np.array([3]))


def test_clips_that_are_no_pairs_cannot_be_measured() -> None:
    with pytest.raises(UsageError, match="1 of 3 clips have both sound and picture"):
        evaluate_retrieval(
            [placed([0, 1, 2], [0, 1, 2], no_audio=[0], no_video=[2])], "audio", [np.arange(3)], alone(3)
        )


# Of trained heads


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
