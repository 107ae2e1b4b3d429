"""Noise, shifts and swaps of test clips."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_problems import DIM, fusion_data, noise

from avfuse.features.backbones import WeightsChoice
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.analysis.perturbations import ModalityTokens, Perturbation, perturbations
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.training.job import TrainingJob


class TestPerturbations:
    """Of one modality of clips whose tokens say which clip and which token they are."""

    def seen(
        self, specs: Sequence[str], clips: int = 6, sampling: str | None = None, **changed: object
    ) -> ModalityTokens:
        named_specs = resolve(specs, sampling, weights=WeightsChoice("random"))
        resolved = [spec.model_copy(update={"shape": (*spec.shape[:-1], 1), **changed}) for spec in named_specs]
        layout = FeatureLayout.of("audio", resolved)
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
        return [perturbation for perturbation in perturbations(seen, np.array(labels), 0) if perturbation.name == name]

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
            (perturbation.apply(torch.tensor([0]))[0, :, 0, 0] / 100).tolist()  # type: ignore[misc]
            for perturbation in self.named(seen, "shift")
        )
        assert quarter == [6, 1, 0, 3, 2, 5, 4, 7]  # mirrored ones are not seen at test
        assert half == [4, 1, 6, 3, 0, 5, 2, 7]

    def test_noise_has_the_variance_that_its_ratio_says(self) -> None:
        generator = np.random.default_rng(0)
        scales = np.array([0.01, 1, 50, 1, 1, 1, 1, 1])
        audio = scales * generator.standard_normal((1600, 1, DIM)) + 7
        data = fusion_data(np.arange(1600) % 2, noise(1600, 1, 0), audio)
        for unstandardised in (False, True):
            modality_input = ModalityInput(data.shapes["audio"], unstandardised=unstandardised)
            fitted = torch.cat([data.train, data.validation])
            tokens = data.modalities["audio"].tokens[fitted]
            modality_input.fit([(tokens, torch.ones(len(tokens), dtype=torch.bool))])
            seen = ModalityTokens.of(TrainingJob("audio", data, 0, Recipe(), Recipe()), "audio", modality_input)
            clips = torch.arange(len(data.test))
            variance = (
                modality_input.standardise(tokens, torch.ones(len(tokens), dtype=torch.bool)).var(dim=0)[0].numpy()
            )
            noises = self.named(seen, "noise", [0] * len(clips))
            for change in noises:
                added = (change.apply(clips) - seen.standardised(clips)).flatten(0, 2).double()  # type: ignore[misc]
                ratio = 10 * np.log10(variance / added.var(dim=0).numpy())
                np.testing.assert_allclose(ratio, change.strength, atol=1.2)
                np.testing.assert_allclose(added.mean(dim=0) / added.std(dim=0), 0, atol=0.2)
            assert [perturbation.strength for perturbation in noises] == [10, 0, -10]
