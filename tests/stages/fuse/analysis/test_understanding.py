"""What modalities are worth, how heads take it when one is changed, and which classes gain."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_sets import INPUTS, kitchen, sounds

from avfuse.features.backbones import WeightsChoice
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.analysis.class_gains import class_gains
from avfuse.stages.fuse.analysis.perturbations import ModalityTokens, Perturbation, perturbations
from avfuse.stages.fuse.analysis.robustness import Robustness, robustness
from avfuse.stages.fuse.analysis.shapley import MAX_PLAYERS, contribution, contribution_key, shapley_values
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import all_correct
from avfuse.stages.fuse.evaluation.statistics import difference_interval
from avfuse.stages.fuse.heads.mlp import MlpFusion
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.restore import job_from_result, load_head
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult, load_run
from avfuse.stages.fuse.training.head_trainer import predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import TrainedHead, train_jobs

DIM = 8
QUICK = TrainingOverrides(epochs=25, lr=3e-3, hidden="32", dropout=0)


def fusion_data(classes: np.ndarray, video: np.ndarray, audio: np.ndarray) -> FusionData:
    """Frames (n, T, D), and three audio images (n, 3, D) that can be told apart by name. Of sixteen clips in a row four
    are for validation and four for testing."""
    count = len(classes)
    everyone = torch.ones(count, dtype=torch.bool)
    names = ["lite:frames"], ["lite:mfcc", "lite:chromagram", "lite:waveplot"][: audio.shape[1]]
    modalities = {}
    for name, values, features in zip(("video", "audio"), (video, audio), names, strict=True):
        shape = values.shape[1:] if name == "video" else values.shape[2:]
        layout = FeatureLayout.of(name, [spec.model_copy(update={"shape": shape}) for spec in resolve(features)])
        modalities[name] = Modality(torch.tensor(values, dtype=torch.float32), everyone, layout.specs, layout=layout)
    splits = np.array(["train", "train", "val", "test"])[np.arange(count) // 4 % 4]
    names = [f"class{number}" for number in range(classes.max() + 1)]
    return FusionData.from_arrays(modalities, classes, names, splits, np.arange(count) // 2)


def pointing(numbers: np.ndarray, tokens: int, seed: int) -> np.ndarray:
    """(n, T, D): a direction for each number, and noise."""
    generator = np.random.default_rng(seed)
    directions = 2 * generator.standard_normal((numbers.max() + 1, DIM))
    return directions[numbers][:, None] + 0.5 * generator.standard_normal((len(numbers), tokens, DIM))


def noise(clips: int, tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((clips, tokens, DIM))


def halves() -> FusionData:
    """Sound tells classes 0 and 1 from each other and from the rest, the picture 2 and 3. Of three audio images the
    first holds it, the others nothing."""
    classes = np.arange(320) % 4
    audio = np.concatenate([pointing(np.array([0, 1, 2, 2])[classes], 1, 1), noise(320, 2, 2)], axis=1)
    return fusion_data(classes, pointing(np.array([2, 2, 0, 1])[classes], 3, 3), audio)


def trained(
    data: FusionData, head: str = "mlp", seeds: int = 2, **settings: object
) -> tuple[TrainingJob, list[TrainedHead]]:
    plans = [TrainingJob.of(head, data, seed, QUICK.updated(settings)) for seed in range(seeds)]
    return plans[0], train_jobs(plans)


def line(found: Robustness, modality: str, change: str, strength: float | None = None) -> pd.Series:
    table = found.table[(found.table["modality"] == modality) & (found.table["change"] == change)]
    (row,) = [row for _, row in table.iterrows() if strength is None or row["strength"] == strength]
    return row


class TestContribution:
    def test_two_modalities_that_know_as_much_are_worth_as_much(self) -> None:
        found = contribution(halves(), "logreg", TrainingOverrides(), 1, progress=False)
        accuracy = found.coalitions.set_index("players")["accuracy"]
        assert accuracy.to_dict() == pytest.approx({"": 0.25, "video": 0.75, "audio": 0.75, "video+audio": 1}, abs=0.1)
        players = found.players.set_index("player")
        assert players["value"].to_dict() == pytest.approx({"video": 0.375, "audio": 0.375}, abs=0.06)
        assert players["value"].sum() == pytest.approx(accuracy["video+audio"] - accuracy[""])
        assert players.loc["video", "alone"] == pytest.approx(accuracy["video"] - accuracy[""])
        assert players.loc["video", "last"] == pytest.approx(accuracy["video+audio"] - accuracy["audio"])

    def test_clips_say_where_a_value_comes_from(self) -> None:
        data = halves()
        found = contribution(data, "logreg", TrainingOverrides(), 2, progress=False)
        test = data.table.iloc[data.test.numpy()]
        assert found.clips.index.tolist() == test["clip_id"].tolist()
        players = found.players.set_index("player")
        for name, row in players.iterrows():
            assert found.clips[name].shape == (len(data.test), 2)
            span = difference_interval(found.clips[name].to_numpy().T, test["group"].to_numpy())
            assert row[["value", "low", "high"]].tolist() == pytest.approx([span.mean, span.low, span.high])
        by_class = found.clips["audio"].mean(axis=1).groupby(test["label"].to_numpy()).mean()
        assert by_class[["class0", "class1"]].min() > by_class[["class2", "class3"]].max()

    def test_a_feature_that_holds_nothing_is_worth_nothing(self) -> None:
        found = contribution(halves(), "logreg", TrainingOverrides(), 1, split=("audio",), progress=False)
        values = found.players.set_index("player")["value"]
        expected = {"video": 0.375, "lite:mfcc": 0.375, "lite:chromagram": 0, "lite:waveplot": 0}
        assert values.to_dict() == pytest.approx(expected, abs=0.08)
        assert found.players["modality"].tolist() == ["video", "audio", "audio", "audio"]
        assert found.coalitions["size"].value_counts().to_dict() == {0: 1, 1: 4, 2: 6, 3: 4, 4: 1}
        everything = found.coalitions["accuracy"].iloc[-1]
        assert values.sum() == pytest.approx(everything - found.coalitions["accuracy"].iloc[0])

    def test_of_an_exclusive_or_each_has_half(self) -> None:
        number = np.arange(400)
        seen, heard = number % 2, number // 2 % 2
        data = fusion_data(seen ^ heard, pointing(seen, 3, 1), pointing(heard, 1, 2))
        found = contribution(data, "mlp", QUICK, 2, progress=False)
        players = found.players.set_index("player")
        assert players["value"].to_dict() == pytest.approx({"video": 0.25, "audio": 0.25}, abs=0.08)
        assert players["alone"].abs().max() < 0.12
        assert players["last"].min() > 0.38
        alone = found.coalitions.set_index("players")["seed_sd"]
        assert alone[""] == 0
        assert alone["video"] > 0

    @pytest.mark.slow
    def test_heads_of_equal_shape_train_side_by_side(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data, together = halves(), []

        def counting(plans: Sequence[TrainingJob], **rest: object) -> list[TrainedHead]:
            together.append(len(plans))
            return train_jobs(plans, **rest)

        monkeypatch.setattr("avfuse.stages.fuse.analysis.shapley.train_jobs", counting)
        found = contribution(data, "mlp", QUICK.updated({"epochs": 4}), 2, split=("audio",), progress=False)
        # picture alone; one, two and three audio images, alone and with the picture
        assert sorted(together) == [2, 2, 2, 6, 6, 6, 6]
        monkeypatch.setattr("avfuse.stages.fuse.analysis.shapley._COPIED_BYTES", 0)
        together.clear()
        apart = contribution(data, "mlp", QUICK.updated({"epochs": 4}), 2, split=("audio",), progress=False)
        assert together == [2] * 15
        pd.testing.assert_frame_equal(found.coalitions, apart.coalitions, atol=0.03)

    def test_what_was_trained_before_it_was_broken_off_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        data, trained = halves(), []

        def breaking_off(plans: Sequence[TrainingJob], **rest: object) -> list[TrainedHead]:
            if len(trained) == 2:
                raise KeyboardInterrupt
            trained.append(plans)
            return train_jobs(plans, **rest)

        monkeypatch.setattr("avfuse.stages.fuse.analysis.shapley.train_jobs", breaking_off)
        training = QUICK.updated({"epochs": 4})
        with pytest.raises(KeyboardInterrupt):
            contribution(data, "mlp", training, 2, keep=tmp_path, progress=False)
        trained.clear()
        found = contribution(data, "mlp", training, 2, keep=tmp_path, progress=False)
        assert len(trained) == 1
        monkeypatch.undo()
        unbroken = contribution(data, "mlp", training, 2, progress=False)
        pd.testing.assert_frame_equal(found.players, unbroken.players)
        pd.testing.assert_frame_equal(found.clips, unbroken.clips)

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
        found = contribution(data, "logreg", TrainingOverrides(), 1, progress=False)
        fitted = torch.cat([data.train, data.validation])
        counts = np.bincount(classes[fitted.numpy()])
        assert counts[0] == counts[1] > counts[2]  # of two a guess picks either
        assert found.coalitions["accuracy"].iloc[0] == np.isin(classes[data.test.numpy()], (0, 1)).mean() / 2

    def test_targets_are_guessed_one_by_one_and_have_to_be_right_at_once(self, tmp_path: Path) -> None:
        for manifest in (kitchen(tmp_path, clips=100), sounds(tmp_path, clips=100)):
            data = load_data(manifest, tmp_path, INPUTS)
            found = contribution(data, "logreg", TrainingOverrides(), 1, progress=False)
            fitted = torch.cat([data.train, data.validation])
            right = np.ones(len(data.test))
            for target, truth in zip(data.targets, data.truth, strict=True):
                has = truth if target.several else torch.nn.functional.one_hot(truth.clamp(min=0), len(target.classes))
                counts = has[fitted].sum(dim=0)
                assert (counts == counts.max()).sum() == 1
                right *= has[data.test][:, counts.argmax()].numpy()
            assert found.coalitions["accuracy"].iloc[0] == pytest.approx(right.mean())
            assert found.players["value"].sum() == pytest.approx(found.coalitions["accuracy"].iloc[-1] - right.mean())

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


@pytest.fixture(scope="module")
def six(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=40, missing=0.1)


@pytest.fixture(scope="module")
def fused(six: FusionData) -> tuple[TrainingJob, list[TrainedHead], Robustness]:
    plan, every = trained(six)
    return plan, every, robustness(plan, [each.head for each in every])


class TestRobustness:
    def test_unchanged_and_dropped_are_what_training_says(
        self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]
    ) -> None:
        plan, every, found = fused
        data = plan.data
        truth = [each[data.test].numpy() for each in data.truth]

        def right(logits: Sequence[np.ndarray]) -> np.ndarray:
            return np.stack([all_correct(data.targets, each, truth) for each in logits], axis=1)

        np.testing.assert_array_equal(found.clips[0], right([each.logits for each in every]))
        for name in ("video", "audio"):
            row = line(found, name, "dropped")
            expected = right([each.without[name] for each in every])
            np.testing.assert_array_equal(found.clips[row.name], expected)
            assert row["accuracy"] == pytest.approx(expected.mean())
            assert row["drop"] == pytest.approx(found.clips[0].to_numpy().mean() - expected.mean())
            assert row["changed"] == data.modalities[name].present[data.test].sum()
            assert row["clips"] == len(data.test)

    def test_the_more_noise_the_less_is_right(self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]) -> None:
        found = fused[2]
        for name in ("video", "audio"):
            kept, half, little = (line(found, name, "noise", each)["accuracy"] for each in (10, 0, -10))
            assert kept >= half > little
            assert line(found, name, "noise", 10)["drop"] < 0.05
            assert line(found, name, "noise", -10)["drop"] > 0.1

    def test_another_class_costs_more_than_the_same_one(
        self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]
    ) -> None:
        found = fused[2]
        for name in ("video", "audio"):
            same, other = line(found, name, "same class"), line(found, name, "other class")
            assert same["drop"] < 0.1
            assert other["drop"] > same["drop"] + 0.2
            assert same["low"] <= same["drop"] <= same["high"]

    def test_a_head_that_ignores_sound_loses_nothing_without_it(self, six: FusionData) -> None:
        plan, (one,) = trained(six, seeds=1)
        head = one.head
        assert isinstance(head, MlpFusion)
        with torch.no_grad():
            head.classifier[0].weight[:, head.input("video").width :] = 0
        found = robustness(plan, [head])
        of_sound = found.table[found.table["modality"] == "audio"]
        assert of_sound["change"].tolist() == ["dropped", *["noise"] * 3, "same class", "other class"]
        for number in of_sound.index:
            assert found.clips[number].equals(found.clips[0])
        assert line(found, "video", "noise", -10)["drop"] > 0.05

    def test_a_modality_that_training_took_away_is_not_changed(self, six: FusionData) -> None:
        plan, every = trained(six, seeds=1, without="audio")
        found = robustness(plan, [each.head for each in every])
        assert set(found.table["modality"]) == {"", "video"}
        assert found.table["accuracy"][0] == pytest.approx(
            all_correct(six.targets, every[0].logits, [six.truth[0][six.test].numpy()]).mean()
        )

    def test_a_shift_is_seen_by_heads_that_know_the_order(self) -> None:
        """The class is which of two pictures comes first."""
        classes = np.arange(320) % 2
        first, second = noise(2, 1, 5)[:, 0]
        frames = np.stack([first, first, second, second])[None] * np.ones((320, 1, 1))
        frames[classes == 1] = frames[classes == 1][:, ::-1]
        data = fusion_data(classes, frames + 0.2 * noise(320, 4, 6), pointing(classes, 1, 7) + 8 * noise(320, 1, 8))
        plan, every = trained(data, seeds=1, video="flatten")
        found = robustness(plan, [each.head for each in every])
        assert line(found, "", "unchanged")["accuracy"] == 1
        assert line(found, "video", "shift", 0.5)["accuracy"] == 0
        assert "shift" not in set(found.table.query("modality == 'audio'")["change"])

    def test_a_shift_is_nothing_to_a_mean(self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]) -> None:
        plan, every, found = fused
        for share in (0.25, 0.5):
            row = line(found, "video", "shift", share)
            assert row["drop"] == 0
            assert found.clips[row.name].equals(found.clips[0])
        door = every[0].head.modality_inputs()["video"]
        seen = ModalityTokens.of(plan, "video", door)
        clips = torch.arange(len(plan.data.test))
        (shift, _) = (each for each in perturbations(seen, np.zeros(len(clips), int), 0) if each.name == "shift")
        moved = shift.apply(clips)  # type: ignore[misc]
        assert not torch.equal(moved, seen.standardised(clips))
        torch.testing.assert_close(seen.stored(moved), seen.stored(seen.standardised(clips)))

    @pytest.mark.parametrize("head", ["average", "crossattn", "logreg"])
    def test_any_head_can_be_asked(self, head: str, six: FusionData) -> None:
        plan, (one,) = trained(six, head, seeds=1, epochs=3, dim=16, heads=2)
        found = robustness(plan, [one.head])
        truth = [six.truth[0][six.test].numpy()]
        np.testing.assert_array_equal(found.clips[0][0], all_correct(six.targets, one.logits, truth))
        row = line(found, "audio", "dropped")
        np.testing.assert_array_equal(found.clips[row.name][0], all_correct(six.targets, one.without["audio"], truth))

    def test_streamed_features_and_several_targets_are_changed_alike(self, tmp_path: Path) -> None:
        manifest = kitchen(tmp_path, clips=120)
        data = load_data(manifest, tmp_path, INPUTS)
        plan, every = trained(data, seeds=1)
        streamed = load_data(manifest, tmp_path, INPUTS, memory_bytes=0)
        assert set(streamed.streamed) == {"video", "audio"}
        heads = [each.head for each in every]
        one, other = robustness(plan, heads), robustness(replace(plan, data=streamed), heads)
        pd.testing.assert_frame_equal(one.table, other.table)
        pd.testing.assert_frame_equal(one.clips, other.clips)
        assert line(one, "audio", "same class")["left_out"] < len(data.test)

    def test_repeated_it_is_the_same_and_another_seed_is_another(
        self, fused: tuple[TrainingJob, list[TrainedHead], Robustness]
    ) -> None:
        plan, every, found = fused
        heads = [each.head for each in every]
        pd.testing.assert_frame_equal(robustness(plan, heads).clips, found.clips)
        assert not robustness(plan, heads, seed=1).clips.equals(found.clips)


class TestChanges:
    """Of one modality of clips whose tokens say which clip and which token they are."""

    def seen(
        self, specs: Sequence[str], clips: int = 6, sampling: str | None = None, **changed: object
    ) -> ModalityTokens:
        wanted = resolve(specs, sampling, weights=WeightsChoice("random"))
        found = [spec.model_copy(update={"shape": (*spec.shape[:-1], 1), **changed}) for spec in wanted]
        layout = FeatureLayout.of("audio", found)
        length = layout.shape.length
        rows = torch.arange(clips)[:, None, None, None] + torch.arange(length)[:, None] / 2**12
        rows = rows + 100.0 * torch.arange(len(layout.alternatives))[:, None, None]
        several = rows if len(layout.alternatives) > 1 else None
        modality = Modality(rows[:, 0], torch.ones(clips, dtype=torch.bool), layout.specs, several, layout)
        data = replace(fusion_data(np.arange(16) % 2, noise(16, 1, 0), noise(16, 1, 1)), modalities={"audio": modality})
        data = replace(data, test=torch.arange(clips))
        return ModalityTokens.of(
            TrainingJob("audio", data, 0, Recipe(), Recipe()), "audio", ModalityInput(layout.shape)
        )

    def named(self, seen: ModalityTokens, name: str, labels: Sequence[int] = (0, 0, 0, 1, 1, 1)) -> list[Perturbation]:
        return [each for each in perturbations(seen, np.array(labels), 0) if each.name == name]

    def partners(self, seen: ModalityTokens, name: str, labels: Sequence[int]) -> tuple[Perturbation, np.ndarray]:
        (change,) = self.named(seen, name, labels)
        return change, change.apply(torch.arange(len(labels)))[:, 0, 0, 0].long().numpy()  # type: ignore[misc]

    @pytest.mark.parametrize("labels", [[0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 3], [2, 1, 1, 1, 0, 2]])
    def test_partners_are_others_of_the_class_or_of_another(self, labels: list[int]) -> None:
        seen, classes = self.seen(["lite:mfcc"]), np.array(labels)
        for name in ("same class", "other class"):
            change, partner = self.partners(seen, name, labels)
            changed = np.flatnonzero(change.affected)
            assert len(set(partner[changed])) == len(changed)
            assert ((classes[partner] == classes) == (name == "same class"))[changed].all()
            assert (partner != np.arange(6))[changed].all()
            assert (partner == np.arange(6))[~change.affected].all()
            assert (change.measured == change.affected).all()
            single = np.bincount(classes)[classes] == 1
            assert (~change.measured == (single if name == "same class" else False)).all()

    def test_clips_of_a_class_of_more_than_half_are_left_out_where_there_are_no_others(self) -> None:
        change, partner = self.partners(self.seen(["lite:mfcc"]), "other class", [0, 0, 0, 0, 1, 2])
        assert change.affected[:4].sum() == 2
        assert change.affected[4:].all()
        assert set(partner[:4][change.affected[:4]]) == {4, 5}

    def test_clips_without_the_modality_stay_and_are_nobodys_partner(self) -> None:
        seen = self.seen(["lite:mfcc"])
        seen.present[[0, 3]] = False
        for name in ("same class", "other class"):
            change, partner = self.partners(seen, name, [0, 0, 0, 1, 1, 1])
            assert change.measured.all()
            assert change.affected.tolist() == [False, True, True, False, True, True]
            assert set(partner[change.affected]) == {1, 2, 4, 5}

    @pytest.mark.parametrize(
        ("feature", "prefix", "cells", "axis"),
        [
            ("lite:frames", 0, (25,), 0),
            ("ast:fbank:tokens", 2, (12, 101), 1),
            ("lite:mfcc:tokens", 0, (7, 7), 1),
            ("vit:frames:tokens2x2", 0, (25, 5), 0),
            ("swin3d:clip:tokens", 0, (8, 7, 7), 0),
            ("timesformer:clip:tokens", 1, (14, 14, 8), 2),
        ],
    )
    def test_a_shift_is_along_time(self, feature: str, prefix: int, cells: tuple[int, ...], axis: int) -> None:
        seen = self.seen([feature])
        quarter, half = self.named(seen, "shift")
        for change, share in ((quarter, 0.25), (half, 0.5)):
            order = (change.apply(torch.tensor([3]))[0, 0, :, 0] - 3) * 2**12  # type: ignore[misc]
            expected = np.arange(seen.cached.shape[2])
            steps = int(share * cells[axis] + 0.5)
            expected[prefix:] = np.roll(expected[prefix:].reshape(cells), steps, axis).ravel()
            assert order.long().tolist() == expected.tolist()

    @pytest.mark.parametrize("features", [["lite:mfcc", "lite:chromagram"], ["swin3d:clip"], ["ast:fbank"]])
    def test_pooled_vectors_have_no_time(self, features: list[str]) -> None:
        assert self.named(self.seen(features), "shift") == []

    def test_tokens_of_unknown_layout_have_no_time(self) -> None:
        assert self.named(self.seen(["lite:mfcc:tokens"], grid=(49,)), "shift") == []

    def test_of_several_images_each_is_shifted_for_itself(self) -> None:
        quarter, _ = self.named(self.seen(["lite:mfcc:tokens", "lite:chromagram:tokens"]), "shift")
        order = (quarter.apply(torch.tensor([0]))[0, 0, :, 0] * 2**12).long().reshape(2, 7, 7)  # type: ignore[misc]
        assert order[0, 0].tolist() == [5, 6, 0, 1, 2, 3, 4]
        assert order[1].tolist() == (order[0] + 49).tolist()

    def test_windows_change_places(self) -> None:
        windows = [f"lite:frames:{number}of4{view}" for number in range(1, 5) for view in ("", ":h")]
        seen = self.seen(windows, sampling="uniform:2")
        quarter, half = (
            (each.apply(torch.tensor([0]))[0, :, 0, 0] / 100).tolist()  # type: ignore[misc]
            for each in self.named(seen, "shift")
        )
        assert quarter == [6, 1, 0, 3, 2, 5, 4, 7]  # mirrored ones are not seen at test
        assert half == [4, 1, 6, 3, 0, 5, 2, 7]

    def test_noise_has_the_variance_that_its_ratio_says(self) -> None:
        generator = np.random.default_rng(0)
        scales = np.array([0.01, 1, 50, 1, 1, 1, 1, 1])
        audio = scales * generator.standard_normal((1600, 1, DIM)) + 7
        data = fusion_data(np.arange(1600) % 2, noise(1600, 1, 0), audio)
        for unstandardised in (False, True):
            door = ModalityInput(data.shapes["audio"], unstandardised=unstandardised)
            fitted = torch.cat([data.train, data.validation])
            tokens = data.modalities["audio"].tokens[fitted]
            door.fit([(tokens, torch.ones(len(tokens), dtype=torch.bool))])
            seen = ModalityTokens.of(TrainingJob("audio", data, 0, Recipe(), Recipe()), "audio", door)
            clips = torch.arange(len(data.test))
            variance = door.standardise(tokens, torch.ones(len(tokens), dtype=torch.bool)).var(dim=0)[0].numpy()
            every = self.named(seen, "noise", [0] * len(clips))
            for change in every:
                added = (change.apply(clips) - seen.standardised(clips)).flatten(0, 2).double()  # type: ignore[misc]
                ratio = 10 * np.log10(variance / added.var(dim=0).numpy())
                np.testing.assert_allclose(ratio, change.strength, atol=1.2)
                np.testing.assert_allclose(added.mean(dim=0) / added.std(dim=0), 0, atol=0.2)
            assert [each.strength for each in every] == [10, 0, -10]


@pytest.fixture(scope="module")
def data() -> FusionData:
    """One of the features has a slash in its name."""
    made = halves()
    audio = made.modalities["audio"]
    *others, last = audio.specs
    specs = [*others, last.model_copy(update={"name": "hf:owner/net:waveplot"})]
    renamed = replace(audio, specs=tuple(specs), layout=FeatureLayout.of("audio", specs))
    return replace(made, modalities={**made.modalities, "audio": renamed})


@pytest.fixture(scope="module")
def run(data: FusionData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    sweep = {"audio": ["lite:mfcc", "lite:mfcc+hf:owner/net:waveplot"], "hidden": ["16"]}
    return run_experiment(
        data, folder, ["average", "mlp"], 2, TrainingOverrides(epochs=3), {}, sweep=sweep, progress=False
    )


class TestSaved:
    def test_reloaded_heads_say_what_was_saved(self, data: FusionData, run: Run) -> None:
        assert len(run.heads) == 4
        before = torch.random.get_rng_state()
        for runs in load_run(run.folder).heads.values():
            for one in runs:
                plan, head = job_from_result(one, data), load_head(one, data)
                fitted = torch.cat([data.train, data.validation])
                inputs = HeadInputs.of(plan.head, plan.data, fitted, plan.options, plan.recipe)
                torch.testing.assert_close(predict(head, inputs, data.test).numpy(), one.logits, rtol=1e-5, atol=1e-5)
                assert plan.seed == one.seed
                assert plan.data.shapes["audio"].length == len(one.described["swept"]["audio"].split("+"))
            plan, heads = job_from_result(runs[0], data), [load_head(one, data) for one in runs]
            right = np.stack([all_correct(run.targets, one.logits, one.truth) for one in runs], axis=1)
            np.testing.assert_array_equal(robustness(plan, heads).clips[0], right)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_what_does_not_belong_to_it_is_refused(self, data: FusionData, run: Run, tmp_path: Path) -> None:
        one = run.heads["mlp,audio=lite:mfcc,hidden=16"][0]
        with pytest.raises(UsageError, match="seed-0 was trained on other clips or features"):
            load_head(one, data.only({"audio": ["lite:mfcc"]}))
        elsewhere = replace(one, file=tmp_path / "seed-0.npz")
        with pytest.raises(UsageError, match=r"seed-0.safetensors is not there"):
            load_head(elsewhere, data)
        (tmp_path / "seed-0.safetensors").write_bytes(b"no weights")
        with pytest.raises(UsageError, match="is damaged"):
            load_head(elsewhere, data)
        other = run.heads["mlp,audio=lite:mfcc+hf:owner_net:waveplot,hidden=16"][0]
        with pytest.raises(UsageError, match="another version of head 'mlp'"):
            load_head(replace(one, file=other.file), data)


def predictions(row: str, guesses: Sequence[Sequence[int]], truth: Sequence[int] | np.ndarray) -> list[SeedResult]:
    """A seed for each list of guesses."""
    known = np.asarray(truth)
    return [
        SeedResult(
            row, seed, Path(), {}, [f"clip{i}" for i in range(len(known))], (known,), np.eye(3)[each], pd.DataFrame()
        )
        for seed, each in enumerate(guesses)
    ]


class TestGains:
    targets = Targets((LearnedTarget("label", ("a", "b", "c")),))

    def test_classes_and_confusions_are_those_counted_by_hand(self) -> None:
        truth = [0, 0, 0, 0, 1, 1]
        before = predictions("audio", [[0, 1, 1, 2, 1, 1], [0, 1, 0, 2, 1, 0]], truth)
        after = predictions("mlp", [[0, 0, 0, 2, 0, 1]], truth)
        found = class_gains(self.targets, before, after)
        # a: right before in shares 1, 0, .5, 0, and now 1, 1, 1, 0; b: 1, .5, and now 0, 1
        expected = pd.DataFrame(
            {
                "target": "label",
                "class": ["a", "b"],
                "clips": [4, 2],
                "before": [0.375, 0.75],
                "after": [0.75, 0.5],
                "difference": [0.375, -0.25],
                "fixed": [1.5, 0.5],
                "broken": [0.0, 1.0],
            }
        )
        pd.testing.assert_frame_equal(found.classes, expected)
        expected = pd.DataFrame(
            {
                "target": "label",
                "true": ["a", "b"],
                "predicted": ["b", "a"],
                "clips": [4, 2],
                "before": [0.375, 0.25],
                "after": [0.0, 0.5],
                "difference": [-0.375, 0.25],
            }
        )
        pd.testing.assert_frame_equal(found.confusions, expected, check_dtype=False)

    def test_every_target_is_looked_at_for_itself(self) -> None:
        two = Targets((LearnedTarget("verb", ("a", "b", "c")), LearnedTarget("noun", ("x", "y"))))
        truth = (np.array([0, 1]), np.array([1, 1]))

        def run(verbs: list[int], nouns: list[int]) -> list[SeedResult]:
            logits = np.concatenate([np.eye(3)[verbs], np.eye(2)[nouns]], axis=1)
            return [SeedResult("mlp", 0, Path(), {}, ["one", "other"], truth, logits, pd.DataFrame())]

        found = class_gains(two, run([0, 0], [0, 0]), run([0, 1], [0, 1]))
        lines = found.classes.set_index(["target", "class"])["difference"]
        assert lines.to_dict() == {("verb", "b"): 1, ("verb", "a"): 0, ("noun", "y"): 0.5}
        pairs = found.confusions.set_index(["target", "true", "predicted"])["difference"]
        assert pairs.to_dict() == {("verb", "b", "a"): -1, ("noun", "y", "x"): -0.5}

    def test_a_clip_of_several_classes_counts_under_each(self) -> None:
        several = Targets((LearnedTarget("label", ("a", "b", "c"), several=True, sigmoid=True),))
        truth = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
        found = class_gains(several, predictions("one", [[2, 1]], truth), predictions("other", [[0, 1]], truth))
        assert found.classes.set_index("class")["difference"].to_dict() == {"a": 1, "b": 0.5}
        assert found.classes.set_index("class")["clips"].to_dict() == {"a": 1, "b": 2}
        pairs = found.confusions.set_index(["true", "predicted"])["difference"]
        assert pairs.to_dict() == {("a", "c"): -1, ("b", "c"): -0.5}

    def test_equal_rows_change_nothing(self) -> None:
        runs = predictions("mlp", [[0, 1, 2]], [0, 1, 1])
        found = class_gains(self.targets, runs, runs)
        assert (found.classes[["difference", "fixed", "broken"]] == 0).all(axis=None)
        assert len(found.confusions) == 0

    def test_other_clips_are_refused(self) -> None:
        with pytest.raises(UsageError, match="'audio' and 'mlp' are not of the same test clips"):
            class_gains(self.targets, predictions("audio", [[0, 1]], [0, 1]), predictions("mlp", [[0]], [0]))
