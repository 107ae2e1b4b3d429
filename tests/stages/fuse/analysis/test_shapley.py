"""Shapley values of modalities and features."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fusion_problems import DIM, QUICK, fusion_data, halves, noise, pointing
from made_up_sets import INPUTS, kitchen, sounds

from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.analysis.shapley import MAX_PLAYERS, contribution, contribution_key, shapley_values
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.evaluation.statistics import difference_interval
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import TrainedHead, train_jobs


class TestContribution:
    def test_two_modalities_that_know_as_much_are_worth_as_much(self) -> None:
        study = contribution(halves(), "logreg", TrainingOverrides(), 1, progress=False)
        accuracy = study.coalitions.set_index("players")["accuracy"]
        assert accuracy.to_dict() == pytest.approx({"": 0.25, "video": 0.75, "audio": 0.75, "video+audio": 1}, abs=0.1)
        players = study.players.set_index("player")
        assert players["value"].to_dict() == pytest.approx({"video": 0.375, "audio": 0.375}, abs=0.06)
        assert players["value"].sum() == pytest.approx(accuracy["video+audio"] - accuracy[""])
        assert players.loc["video", "alone"] == pytest.approx(accuracy["video"] - accuracy[""])
        assert players.loc["video", "last"] == pytest.approx(accuracy["video+audio"] - accuracy["audio"])

    def test_clips_say_where_a_value_comes_from(self) -> None:
        data = halves()
        study = contribution(data, "logreg", TrainingOverrides(), 2, progress=False)
        test = data.table.iloc[data.test.numpy()]
        assert study.clips.index.tolist() == test["clip_id"].tolist()
        players = study.players.set_index("player")
        for name, row in players.iterrows():
            assert study.clips[name].shape == (len(data.test), 2)
            span = difference_interval(study.clips[name].to_numpy().T, test["group"].to_numpy())
            assert row[["value", "low", "high"]].tolist() == pytest.approx([span.mean, span.low, span.high])
        by_class = study.clips["audio"].mean(axis=1).groupby(test["label"].to_numpy()).mean()
        assert by_class[["class0", "class1"]].min() > by_class[["class2", "class3"]].max()

    def test_a_feature_that_holds_nothing_is_worth_nothing(self) -> None:
        study = contribution(halves(), "logreg", TrainingOverrides(), 1, split=("audio",), progress=False)
        values = study.players.set_index("player")["value"]
        expected = {"video": 0.375, "lite:mfcc": 0.375, "lite:chromagram": 0, "lite:waveplot": 0}
        assert values.to_dict() == pytest.approx(expected, abs=0.08)
        assert study.players["modality"].tolist() == ["video", "audio", "audio", "audio"]
        assert study.coalitions["size"].value_counts().to_dict() == {0: 1, 1: 4, 2: 6, 3: 4, 4: 1}
        everything = study.coalitions["accuracy"].iloc[-1]
        assert values.sum() == pytest.approx(everything - study.coalitions["accuracy"].iloc[0])

    def test_of_an_exclusive_or_each_has_half(self) -> None:
        number = np.arange(400)
        seen, heard = number % 2, number // 2 % 2
        data = fusion_data(seen ^ heard, pointing(seen, 3, 1), pointing(heard, 1, 2))
        study = contribution(data, "mlp", QUICK, 2, progress=False)
        players = study.players.set_index("player")
        assert players["value"].to_dict() == pytest.approx({"video": 0.25, "audio": 0.25}, abs=0.08)
        assert players["alone"].abs().max() < 0.12
        assert players["last"].min() > 0.38
        alone = study.coalitions.set_index("players")["seed_sd"]
        assert alone[""] == 0
        assert alone["video"] > 0

    @pytest.mark.slow
    def test_heads_of_equal_shape_train_side_by_side(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data, together = halves(), []

        def counting(jobs: Sequence[TrainingJob], **rest: object) -> list[TrainedHead]:
            together.append(len(jobs))
            return train_jobs(jobs, **rest)

        monkeypatch.setattr("avfuse.stages.fuse.analysis.shapley.train_jobs", counting)
        study = contribution(data, "mlp", QUICK.updated({"epochs": 4}), 2, split=("audio",), progress=False)
        # picture alone; one, two and three audio images, alone and with the picture
        assert sorted(together) == [2, 2, 2, 6, 6, 6, 6]
        monkeypatch.setattr("avfuse.stages.fuse.analysis.shapley._COPIED_BYTES", 0)
        together.clear()
        apart = contribution(data, "mlp", QUICK.updated({"epochs": 4}), 2, split=("audio",), progress=False)
        assert together == [2] * 15
        pd.testing.assert_frame_equal(study.coalitions, apart.coalitions, atol=0.03)

    def test_what_was_trained_before_it_was_broken_off_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        data, trained = halves(), []

        def breaking_off(jobs: Sequence[TrainingJob], **rest: object) -> list[TrainedHead]:
            if len(trained) == 2:
                raise KeyboardInterrupt
            trained.append(jobs)
            return train_jobs(jobs, **rest)

        monkeypatch.setattr("avfuse.stages.fuse.analysis.shapley.train_jobs", breaking_off)
        training = QUICK.updated({"epochs": 4})
        with pytest.raises(KeyboardInterrupt):
            contribution(data, "mlp", training, 2, keep=tmp_path, progress=False)
        trained.clear()
        study = contribution(data, "mlp", training, 2, keep=tmp_path, progress=False)
        assert len(trained) == 1
        monkeypatch.undo()
        unbroken = contribution(data, "mlp", training, 2, progress=False)
        pd.testing.assert_frame_equal(study.players, unbroken.players)
        pd.testing.assert_frame_equal(study.clips, unbroken.clips)

    def test_what_is_kept_belongs_to_its_settings(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        data = halves()
        keys = {
            contribution_key(data, *of)
            for of in [
                ("mlp", QUICK, 1),
                ("average", QUICK, 1),
                ("mlp", QUICK, 2),
                ("mlp", QUICK.updated({"lr": 1}), 1),
                ("mlp", QUICK.updated({"hidden": "8"}), 1),
                ("mlp", TrainingOverrides(shuffle_labels=True, **QUICK.settings), 1),
                ("mlp", QUICK, 1, ["audio"]),
            ]
        }
        assert len(keys) == 7
        contribution(data, "logreg", TrainingOverrides(), 1, keep=tmp_path, progress=False)
        monkeypatch.setattr(
            "avfuse.stages.fuse.analysis.shapley.train_jobs", lambda *_, **__: pytest.fail("trained again")
        )
        contribution(data, "logreg", TrainingOverrides(), 1, keep=tmp_path, progress=False)
        (folder,) = tmp_path.iterdir()
        for file in folder.iterdir():
            file.write_bytes(b"half a fi")
        with pytest.raises(UsageError, match=r"npz is damaged .*remove it"):
            contribution(data, "logreg", TrainingOverrides(), 1, keep=tmp_path, progress=False)

    def test_shapley_values_are_means_over_all_orders(self) -> None:
        generator = np.random.default_rng(0)
        names = "abcd"
        subsets = [frozenset(n for bit, n in enumerate(names) if number >> bit & 1) for number in range(16)]
        values = {subset: generator.random(3) for subset in sorted(subsets, key=len)}
        orders = list(permutations(names))
        for player, value in shapley_values(values).items():
            before = [frozenset(order[: order.index(player)]) for order in orders]
            expected = np.mean([values[each | {player}] - values[each] for each in before], axis=0)
            np.testing.assert_allclose(value, expected)

    def test_nothing_is_worth_the_most_frequent_class(self) -> None:
        classes = np.array([0, 0, 0, 1] * 4 + [0, 1, 1, 1] * 4 + [0, 1, 2, 2] * 4)
        data = fusion_data(classes, noise(48, 2, 0), noise(48, 1, 1))
        study = contribution(data, "logreg", TrainingOverrides(), 1, progress=False)
        fitted = torch.cat([data.train, data.validation])
        counts = np.bincount(classes[fitted.numpy()])
        assert counts[0] == counts[1] > counts[2]  # of two a guess picks either
        assert study.coalitions["accuracy"].iloc[0] == np.isin(classes[data.test.numpy()], (0, 1)).mean() / 2

    def test_targets_are_guessed_one_by_one_and_have_to_be_right_at_once(self, tmp_path: Path) -> None:
        for manifest in (kitchen(tmp_path, clips=100), sounds(tmp_path, clips=100)):
            data = load_data(manifest, tmp_path, INPUTS)
            study = contribution(data, "logreg", TrainingOverrides(), 1, progress=False)
            fitted = torch.cat([data.train, data.validation])
            right = np.ones(len(data.test))
            for target, truth in zip(data.targets, data.truth, strict=True):
                has = truth if target.several else torch.nn.functional.one_hot(truth.clamp(min=0), len(target.classes))
                counts = has[fitted].sum(dim=0)
                assert (counts == counts.max()).sum() == 1
                right *= has[data.test][:, counts.argmax()].numpy()
            assert study.coalitions["accuracy"].iloc[0] == pytest.approx(right.mean())
            assert study.players["value"].sum() == pytest.approx(study.coalitions["accuracy"].iloc[-1] - right.mean())

    def test_what_cannot_be_told_apart_is_refused(self, make_data: Callable[..., FusionData]) -> None:
        data = halves()
        with pytest.raises(UsageError, match=r"2 to 10 players.*'audio' sees 1 here"):
            contribution(data, "audio", QUICK, 1)
        with pytest.raises(UsageError, match=r"without=video.*leave it out"):
            contribution(data, "mlp", QUICK.updated({"without": "video"}), 1)
        with pytest.raises(UsageError, match="'audio' sees no video"):
            contribution(data, "audio", QUICK, 1, split=("video",))
        with pytest.raises(UsageError, match="no features' names"):
            contribution(make_data(clips_per_class=8), "mlp", QUICK, 1, split=("audio",))
        images = resolve(["lite:images", "lite:images-paper"])
        specs = [spec.model_copy(update={"shape": (DIM,)}) for spec in images]
        layout = FeatureLayout.of("audio", specs)
        count = len(data.table)
        many = Modality(torch.zeros(count, 12, DIM), data.modalities["audio"].present, layout.specs, layout=layout)
        with pytest.raises(UsageError, match=f"to {MAX_PLAYERS} players.*sees 13"):
            contribution(
                replace(data, modalities={**data.modalities, "audio": many}), "mlp", QUICK, 1, split=("audio",)
            )
