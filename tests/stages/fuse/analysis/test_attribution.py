"""Grad-CAM on problems whose answer is planted."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.analysis.attribution import Explanation, explain
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData, Modality
from avfuse.stages.fuse.data.modality import FeatureLayout
from avfuse.stages.fuse.heads import Head, build_head
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_jobs

SMALL = {
    "crossattn": {"dim": 32, "lr": 3e-3, "batch_size": 8},
    "bottleneck": {"dim": 32, "lr": 3e-3, "batch_size": 8, "blocks": 1},
}


GRID, CELL = (4, 8), 19


FRAME = 2


def planted(clips: int = 160, tells: Sequence[str] = ("video", "audio"), cls: bool = False) -> FusionData:
    """Three classes that one cell of the sound, the 20th of 32, and one frame tell, or one of them; else noise."""
    generator = np.random.default_rng(0)
    classes = np.arange(clips) % 3
    marks = 4 * generator.standard_normal((2, 3, 16))
    video = 0.5 * generator.standard_normal((clips, 5, 16))
    audio = 0.5 * generator.standard_normal((clips, 32, 16))
    if "video" in tells:
        video[:, FRAME] += marks[0, classes]
    if "audio" in tells:
        audio[:, CELL] += marks[1, classes]
    frames, tokens = resolve(["lite:frames", "lite:fbank:tokens4x8"])
    frames = frames.model_copy(update={"shape": (5, 16)})
    tokens = tokens.model_copy(update={"shape": (32 + cls, 16)})
    if cls:
        audio = np.concatenate([audio[:, CELL : CELL + 1], audio], axis=1)
    everyone = torch.ones(clips, dtype=torch.bool)
    modalities = {
        name: Modality(torch.tensor(rows, dtype=torch.float32), everyone, (spec,), None, FeatureLayout.of(name, [spec]))
        for name, rows, spec in (("video", video, frames), ("audio", audio, tokens))
    }
    splits = np.array(["train", "train", "val", "test"])[np.arange(clips) // 3 % 4]
    return FusionData.from_arrays(modalities, classes, ["class0", "class1", "class2"], splits)


def trained(job: TrainingJob) -> Head:
    (only,) = train_jobs([job])
    return only.head.eval()


def explained(data: FusionData, head: str, epochs: int = 6, clips: int = 24, **rest: object) -> Explanation:
    job = TrainingJob.of(head, data, 0, TrainingOverrides(epochs=epochs, **SMALL.get(head, {})))
    return explain(job, [trained(job)], data.test[:clips], **rest)


@pytest.fixture(scope="module")
def data() -> FusionData:
    return planted()


class TestGradCam:
    @pytest.mark.parametrize("head", ["audio", "mlp", "average", "crossattn", "bottleneck", "logreg"])
    def test_the_cell_that_carries_the_class_is_found(self, head: str) -> None:
        explanation = explained(planted(tells=["audio"]), head)
        maps = np.stack([explanation.heatmap("audio", 0, clip) for clip in range(24)])
        assert maps.shape == (24, *GRID)
        assert np.mean(maps.reshape(24, -1).argmax(axis=1) == CELL) > 0.8

    @pytest.mark.parametrize("head", ["video", "average", "crossattn", "logreg"])
    def test_the_frame_that_carries_the_class_is_found(self, head: str) -> None:
        explanation = explained(planted(tells=["video"]), head)
        assert np.mean(explanation.maps["video"].argmax(axis=1) == FRAME) > 0.8

    def test_it_is_the_formula(self) -> None:
        data = planted(48)
        head = build_head("crossattn", data.shapes, data.targets)
        job = TrainingJob("crossattn", data, 0, Recipe(), head.Options())
        clips = data.test[:3]
        tokens = {name: data.modalities[name].tokens[clips].requires_grad_() for name in ("video", "audio")}
        logits = head.eval()(tokens, {"video": None, "audio": None})["logits"]
        gradients = torch.autograd.grad(logits[range(3), [2, 0, 1]].sum(), list(tokens.values()))
        explanation = explain(job, [head], clips, classes=np.array([[2], [0], [1]]))
        for (name, own), gradient in zip(tokens.items(), gradients, strict=True):
            expected = (gradient.mean(dim=1)[:, None] * own).sum(dim=2).relu()
            expected = expected / expected.sum(dim=1, keepdim=True)
            np.testing.assert_allclose(explanation.maps[name], expected.detach().numpy(), rtol=1e-4, atol=1e-6)
        chances = logits.softmax(dim=1).detach().numpy()
        np.testing.assert_allclose(explanation.probabilities[:, 0], chances[range(3), [2, 0, 1]], rtol=1e-5)

    def test_seeds_are_averaged_and_the_likeliest_class_of_all_is_explained(self, data: FusionData) -> None:
        jobs = [TrainingJob.of("audio", data, seed, TrainingOverrides(epochs=2)) for seed in (0, 1)]
        heads = [trained(job) for job in jobs]
        clips = data.test[:10]
        both = explain(jobs[0], heads, clips)
        each = [explain(jobs[0], [head], clips, classes=both.classes) for head in heads]
        np.testing.assert_allclose(both.maps["audio"], np.mean([one.maps["audio"] for one in each], axis=0))
        chances = np.mean([one.probabilities for one in each], axis=0)
        np.testing.assert_allclose(both.probabilities, chances)
        assert (both.probabilities > 1 / 3).all()

    def test_clips_without_the_modality_have_no_map(self, data: FusionData) -> None:
        audio = data.modalities["audio"]
        present = audio.present.clone()
        present[data.test[1]] = False
        silent = replace(data, modalities={**data.modalities, "audio": replace(audio, present=present)})
        explanation = explained(silent, "mlp", epochs=1, clips=4)
        assert np.isnan(explanation.maps["audio"]).all(axis=1).tolist() == [False, True, False, False]
        assert np.isfinite(explanation.maps["video"]).all()

    def test_heads_that_take_cls_alone_have_none_and_say_so(self) -> None:
        data = planted(96, cls=True)
        explanation = explained(data, "mlp", epochs=1, clips=4)
        assert set(explanation.maps) == {"video"}
        assert explanation.without_map == {
            "audio": "no cell reaches the score: where tokens have a CLS, some heads read that alone"
        }
        with pytest.raises(UsageError, match=r"head 'audio' gives no grad-cam map .*some heads read that alone"):
            explained(data, "audio", epochs=1, clips=4)
        assert set(explained(data, "crossattn", epochs=1, clips=4).maps) == {"video", "audio"}

    def test_single_vectors_have_no_cells(self, make_data: Callable[..., FusionData]) -> None:
        data = make_data(20, missing=0)
        audio = data.modalities["audio"]
        one = replace(data, modalities={**data.modalities, "audio": replace(audio, tokens=audio.tokens[:, :1])})
        assert set(explained(one, "mlp", epochs=1, clips=4).maps) == {"video"}
        with pytest.raises(
            UsageError, match=r"head 'audio' gives no grad-cam map \(audio: one vector a clip has no cells"
        ):
            explained(one, "audio", epochs=1, clips=4)

    def test_attention_goes_the_same_way(self, data: FusionData) -> None:
        explanation = explained(data, "crossattn", epochs=1, clips=4, method="attention")
        assert explanation.heatmap("audio", 0, 0).shape == GRID
        for each in explanation.maps.values():
            np.testing.assert_allclose(each.sum(axis=1), 1)
        with pytest.raises(UsageError, match="head 'video' has no attention"):
            explained(data, "video", epochs=1, clips=4, method="attention")

    def test_windows_that_are_averaged_at_test_are_explained_together(self) -> None:
        data = windowed()
        explanation = explained(data, "video", epochs=15)
        assert explanation.heatmap("video", 0, 0).shape == (10,)
        assert np.mean(explanation.maps["video"].argmax(axis=1) == 5 + FRAME) > 0.8
        attended = explained(data, "crossattn", epochs=1, clips=4, method="attention")
        assert attended.maps["video"].shape == (4, 10)
        assert attended.maps["audio"].shape == (4, 32)
        np.testing.assert_allclose(attended.maps["video"].sum(axis=1), 1)


def windowed() -> FusionData:
    """As planted, with two windows of five frames; the class is told by a frame of the second alone."""
    data = planted()
    video = data.modalities["video"]
    specs = [spec.model_copy(update={"shape": (5, 16)}) for spec in resolve(["lite:frames:windows2"])]
    noise = 0.5 * torch.randn(video.tokens.shape, generator=torch.Generator().manual_seed(5))
    views = torch.stack([noise, video.tokens], dim=1)
    layout = FeatureLayout.of("video", specs)
    return replace(
        data, modalities={**data.modalities, "video": Modality(noise, video.present, layout.specs, views, layout)}
    )
