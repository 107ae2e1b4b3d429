"""Accuracy under perturbations of one modality."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fusion_problems import fusion_data, noise, pointing, trained
from made_up_sets import INPUTS, kitchen

from avfuse.stages.fuse.analysis.perturbations import ModalityTokens, perturbations
from avfuse.stages.fuse.analysis.robustness import Robustness, robustness
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.evaluation.metrics import all_correct
from avfuse.stages.fuse.heads.mlp import MlpFusion
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.trainer import TrainedHead


def line(result: Robustness, modality: str, change: str, strength: float | None = None) -> pd.Series:
    table = result.table[(result.table["modality"] == modality) & (result.table["change"] == change)]
    (row,) = [row for _, row in table.iterrows() if strength is None or row["strength"] == strength]
    return row


@pytest.fixture(scope="module")
def six(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=40, missing=0.1)


@pytest.fixture(scope="module")
def fused(six: FusionData) -> tuple[TrainingJob, list[TrainedHead], Robustness]:
    job, trained_heads = trained(six)
    return job, trained_heads, robustness(job, [one.head for one in trained_heads])


class TestRobustness:
    def test_unchanged_and_dropped_are_what_training_says(
        self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]
    ) -> None:
        job, trained_heads, result = fused
        data = job.data
        truth = [each[data.test].numpy() for each in data.truth]

        def right(logits: Sequence[np.ndarray]) -> np.ndarray:
            return np.stack([all_correct(data.targets, each, truth) for each in logits], axis=1)

        np.testing.assert_array_equal(result.clips[0], right([each.logits for each in trained_heads]))
        for name in ("video", "audio"):
            row = line(result, name, "dropped")
            expected = right([each.without[name] for each in trained_heads])
            np.testing.assert_array_equal(result.clips[row.name], expected)
            assert row["accuracy"] == pytest.approx(expected.mean())
            assert row["drop"] == pytest.approx(result.clips[0].to_numpy().mean() - expected.mean())
            assert row["changed"] == data.modalities[name].present[data.test].sum()
            assert row["clips"] == len(data.test)

    def test_the_more_noise_the_less_is_right(self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]) -> None:
        result = fused[2]
        for name in ("video", "audio"):
            kept, half, little = (line(result, name, "noise", each)["accuracy"] for each in (10, 0, -10))
            assert kept >= half > little
            assert line(result, name, "noise", 10)["drop"] < 0.05
            assert line(result, name, "noise", -10)["drop"] > 0.1

    def test_another_class_costs_more_than_the_same_one(
        self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]
    ) -> None:
        result = fused[2]
        for name in ("video", "audio"):
            same, other = line(result, name, "same class"), line(result, name, "other class")
            assert same["drop"] < 0.1
            assert other["drop"] > same["drop"] + 0.2
            assert same["low"] <= same["drop"] <= same["high"]

    def test_a_head_that_ignores_sound_loses_nothing_without_it(self, six: FusionData) -> None:
        job, (one,) = trained(six, seeds=1)
        head = one.head
        assert isinstance(head, MlpFusion)
        with torch.no_grad():
            head.classifier[0].weight[:, head.input("video").width :] = 0
        result = robustness(job, [head])
        of_sound = result.table[result.table["modality"] == "audio"]
        assert of_sound["change"].tolist() == ["dropped", *["noise"] * 3, "same class", "other class"]
        for number in of_sound.index:
            assert result.clips[number].equals(result.clips[0])
        assert line(result, "video", "noise", -10)["drop"] > 0.05

    def test_a_modality_that_training_took_away_is_not_changed(self, six: FusionData) -> None:
        job, trained_heads = trained(six, seeds=1, without="audio")
        result = robustness(job, [one.head for one in trained_heads])
        assert set(result.table["modality"]) == {"", "video"}
        assert result.table["accuracy"][0] == pytest.approx(
            all_correct(six.targets, trained_heads[0].logits, [six.truth[0][six.test].numpy()]).mean()
        )

    def test_a_shift_is_seen_by_heads_that_know_the_order(self) -> None:
        """The class is which of two pictures comes first."""
        classes = np.arange(320) % 2
        first, second = noise(2, 1, 5)[:, 0]
        frames = np.stack([first, first, second, second])[None] * np.ones((320, 1, 1))
        frames[classes == 1] = frames[classes == 1][:, ::-1]
        data = fusion_data(classes, frames + 0.2 * noise(320, 4, 6), pointing(classes, 1, 7) + 8 * noise(320, 1, 8))
        job, trained_heads = trained(data, seeds=1, video="flatten")
        result = robustness(job, [one.head for one in trained_heads])
        assert line(result, "", "unchanged")["accuracy"] == 1
        assert line(result, "video", "shift", 0.5)["accuracy"] == 0
        assert "shift" not in set(result.table.query("modality == 'audio'")["change"])

    def test_a_shift_is_nothing_to_a_mean(self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]) -> None:
        job, trained_heads, result = fused
        for share in (0.25, 0.5):
            row = line(result, "video", "shift", share)
            assert row["drop"] == 0
            assert result.clips[row.name].equals(result.clips[0])
        modality_input = trained_heads[0].head.modality_inputs()["video"]
        seen = ModalityTokens.of(job, "video", modality_input)
        clips = torch.arange(len(job.data.test))
        (shift, _) = (each for each in perturbations(seen, np.zeros(len(clips), int), 0) if each.name == "shift")
        moved = shift.apply(clips)  # type: ignore[misc]
        assert not torch.equal(moved, seen.standardised(clips))
        torch.testing.assert_close(seen.stored(moved), seen.stored(seen.standardised(clips)))

    @pytest.mark.parametrize("head", ["average", "crossattn", "logreg"])
    def test_any_head_can_be_asked(self, head: str, six: FusionData) -> None:
        job, (one,) = trained(six, head, seeds=1, epochs=3, dim=16, heads=2)
        result = robustness(job, [one.head])
        truth = [six.truth[0][six.test].numpy()]
        np.testing.assert_array_equal(result.clips[0][0], all_correct(six.targets, one.logits, truth))
        row = line(result, "audio", "dropped")
        np.testing.assert_array_equal(result.clips[row.name][0], all_correct(six.targets, one.without["audio"], truth))

    def test_streamed_features_and_several_targets_are_changed_alike(self, tmp_path: Path) -> None:
        manifest = kitchen(tmp_path, clips=120)
        data = load_data(manifest, tmp_path, INPUTS)
        job, trained_heads = trained(data, seeds=1)
        streamed = load_data(manifest, tmp_path, INPUTS, memory_bytes=0)
        assert set(streamed.streamed) == {"video", "audio"}
        heads = [one.head for one in trained_heads]
        one, other = robustness(job, heads), robustness(replace(job, data=streamed), heads)
        pd.testing.assert_frame_equal(one.table, other.table)
        pd.testing.assert_frame_equal(one.clips, other.clips)
        assert line(one, "audio", "same class")["left_out"] < len(data.test)

    def test_repeated_it_is_the_same_and_another_seed_is_another(
        self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]
    ) -> None:
        job, trained_heads, result = fused
        heads = [one.head for one in trained_heads]
        pd.testing.assert_frame_equal(robustness(job, heads).clips, result.clips)
        assert not robustness(job, heads, seed=1).clips.equals(result.clips)
