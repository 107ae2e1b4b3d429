"""Which cells heads read: attention, and Grad-CAM on problems whose answer is planted."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avfuse.features.backbones import WeightsChoice
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.analysis.attention_rollout import attention_rollout, record_attention, why_without_attention
from avfuse.stages.fuse.analysis.attribution import Explanation, explain
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData, Modality
from avfuse.stages.fuse.data.modality import FeatureLayout
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.data.token_layout import feature_tokens
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, get_head
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_jobs

TARGETS = Targets((LearnedTarget("label", ("a", "b", "c")),))
SHAPES = {"video": ModalityShape(5, 16), "audio": ModalityShape(8, 16)}
PRESENT = {"video": None, "audio": None}


def made_up_head(name: str, shapes: dict[str, ModalityShape] = SHAPES, **options: object) -> Head:
    torch.manual_seed(0)
    return build_head(name, shapes, TARGETS, get_head(name).Options(**options)).eval()


def made_up_tokens(clips: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(clips, shape.length, shape.dim, generator=generator) for name, shape in SHAPES.items()}


class TestAttention:
    @pytest.mark.parametrize("name", ["crossattn", "bottleneck"])
    def test_outputs_are_the_same_to_the_bit_while_weights_are_noted(self, name: str) -> None:
        head, tokens = made_up_head(name), made_up_tokens()
        with torch.no_grad():
            before = head(tokens, PRESENT)["logits"]
            with record_attention(head) as weights:
                during = head(tokens, PRESENT)["logits"]
            count = len(weights)
            weights.clear()
            after = head(tokens, PRESENT)["logits"]
        assert torch.equal(before, during)
        assert torch.equal(before, after)
        assert count == (2 if name == "crossattn" else 8)
        assert not weights

    def test_noted_weights_make_the_output_of_their_layer(self) -> None:
        head, tokens = made_up_head("crossattn"), made_up_tokens()
        seen = {}
        layer = head.get_submodule("layers.0.attend.video.attend")
        layer.register_forward_hook(lambda module, given, output: seen.update(context=given[2], output=output[0]))
        with torch.no_grad(), record_attention(head) as weights:
            head(tokens, PRESENT)
        of_values = layer.in_proj_weight[-layer.embed_dim :], layer.in_proj_bias[-layer.embed_dim :]
        values = F.linear(seen["context"], *of_values).unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
        mixed = layer.out_proj((weights["layers.0.attend.video.attend"] @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, seen["output"])

    def test_one_layer_of_cross_attention_is_its_weights_averaged_over_readers(self) -> None:
        head, tokens = made_up_head("crossattn"), made_up_tokens()
        with torch.no_grad(), record_attention(head) as weights:
            head(tokens, PRESENT)
        found = attention_rollout(head, tokens, PRESENT)
        torch.testing.assert_close(found["audio"], weights["layers.0.attend.video.attend"].mean(dim=(1, 2)))
        torch.testing.assert_close(found["video"], weights["layers.0.attend.audio.attend"].mean(dim=(1, 2)))

    def test_where_there_is_a_cls_the_classifier_takes_it_as_the_reader(self) -> None:
        shapes = {"video": ModalityShape(5, 16, prefix=1, grid=(2, 2)), "audio": SHAPES["audio"]}
        head, tokens = made_up_head("crossattn", shapes), made_up_tokens()
        with torch.no_grad(), record_attention(head) as weights:
            head(tokens, PRESENT)
        expected = weights["layers.0.attend.video.attend"].mean(dim=1)[:, 0]
        torch.testing.assert_close(attention_rollout(head, tokens, PRESENT)["audio"], expected)

    def test_a_bottleneck_of_one_block_is_rolled_as_by_hand(self) -> None:
        head, tokens = made_up_head("bottleneck", blocks=1, update="parallel_mean"), made_up_tokens()
        with torch.no_grad(), record_attention(head) as weights:
            head(tokens, PRESENT)
        of_video = weights["exchange.video_blocks.0.attend.attend"].mean(dim=1)[:, 5:, :5].mean(dim=1)
        of_audio = weights["exchange.audio_blocks.0.attend.attend"].mean(dim=1)[:, :4, 4:].mean(dim=1)
        found = attention_rollout(head, tokens, PRESENT)
        torch.testing.assert_close(found["video"], of_video / of_video.sum(dim=1, keepdim=True))
        torch.testing.assert_close(found["audio"], of_audio / of_audio.sum(dim=1, keepdim=True))

    @pytest.mark.parametrize("update", ["serial_last", "serial_mean", "parallel_mean"])
    @pytest.mark.parametrize("name", ["crossattn", "bottleneck"])
    def test_shares_add_up_to_one_and_go_with_their_clip(self, name: str, update: str) -> None:
        options = {"layers": 2} if name == "crossattn" else {"update": update}
        head, tokens = made_up_head(name, **options), made_up_tokens()
        found = attention_rollout(head, tokens, PRESENT)
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        turned = attention_rollout(head, {key: each[order] for key, each in tokens.items()}, PRESENT)
        assert {key: each.shape for key, each in found.items()} == {"video": (6, 5), "audio": (6, 8)}
        for key, each in found.items():
            assert (each > 0).all()
            torch.testing.assert_close(each.sum(dim=1), torch.ones(6))
            torch.testing.assert_close(turned[key], each[order])

    def test_clips_without_a_modality_have_none(self) -> None:
        present = {"video": None, "audio": torch.tensor([True, False, True, True, True, True])}
        found = attention_rollout(made_up_head("bottleneck"), made_up_tokens(), present)
        assert found["audio"][1].isnan().all()
        assert found["video"].isfinite().all()
        crossed = attention_rollout(made_up_head("crossattn"), made_up_tokens(), present)
        assert all(each[1].isnan().all() and each[[0, 2, 3, 4, 5]].isfinite().all() for each in crossed.values())

    def test_what_is_not_read_is_not_there(self) -> None:
        assert set(attention_rollout(made_up_head("crossattn", reads="video"), made_up_tokens(), PRESENT)) == {"audio"}
        with pytest.raises(UsageError, match="layers=0 attends to nothing"):
            attention_rollout(made_up_head("crossattn", layers=0), made_up_tokens(), PRESENT)
        with pytest.raises(UsageError, match="head 'mlp' has no attention between cached tokens: take crossattn"):
            attention_rollout(made_up_head("mlp"), made_up_tokens(), PRESENT)


GRID_SHAPES = {"video": ModalityShape(5, 16), "audio": ModalityShape(2 + 4 * 8, 16, prefix=2, grid=(4, 8))}


class TestMultiscaleAttention:
    """Of heads whose tokens become fewer."""

    @pytest.fixture
    @staticmethod
    def tokens() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(2)
        return {name: torch.randn(3, each.length, each.dim, generator=generator) for name, each in GRID_SHAPES.items()}

    @pytest.mark.parametrize("pooling", ["2d", "1d", "none"])
    @pytest.mark.parametrize("name", ["mat_lite", "mmt"])
    def test_shares_add_up_to_one_over_the_cells_that_go_in(
        self, name: str, pooling: str, tokens: dict[str, Tensor]
    ) -> None:
        head = made_up_head(name, GRID_SHAPES, pooling=pooling)
        found = attention_rollout(head, tokens, PRESENT)
        assert set(found) == ({"audio"} if name == "mat_lite" else {"audio", "video"})
        assert found["audio"].shape == (3, 34)
        assert (found["audio"][:, :2] == 0).all()
        assert (found["audio"][:, 2:] > 0).all()
        for each in found.values():
            torch.testing.assert_close(each.sum(dim=1), torch.ones(3))

    def test_weights_are_those_of_the_pass(self, tokens: dict[str, Tensor]) -> None:
        head = made_up_head("mat_lite", GRID_SHAPES)
        layer = head.get_submodule("encode.blocks.1.attend")
        seen = {}
        layer.register_forward_hook(lambda module, given, output: seen.update(given=given[0], output=output))
        with torch.no_grad(), record_attention(head) as weights:
            head(tokens, PRESENT)
            queries, _, values = layer._pooled(seen["given"])
        mixed = weights["encode.blocks.1.attend"] @ values
        torch.testing.assert_close(layer.project((queries + mixed).transpose(1, 2).flatten(2)), seen["output"])

    def test_attention_that_is_even_gives_an_even_map(self, tokens: dict[str, Tensor]) -> None:
        head = made_up_head("mat_lite", GRID_SHAPES)
        for name, each in head.named_parameters():
            if "attend.qkv" in name or "attend.positions" in name:
                torch.nn.init.zeros_(each)
        found = attention_rollout(head, tokens, PRESENT)["audio"][:, 2:]
        torch.testing.assert_close(found, torch.full_like(found, 1 / 32))

    def test_without_pooling_one_block_reads_as_by_hand(self, tokens: dict[str, Tensor]) -> None:
        head = made_up_head("mat_lite", GRID_SHAPES, pooling="none")
        with torch.no_grad(), record_attention(head) as weights:
            head(tokens, PRESENT)
        rolled = torch.full((3, 1, 32), 1 / 32)
        for number in (2, 1, 0):
            rolled = (rolled @ weights[f"encode.blocks.{number}.attend"].mean(dim=1) + rolled) / 2
        torch.testing.assert_close(attention_rollout(head, tokens, PRESENT)["audio"][:, 2:], rolled[:, 0])

    def test_of_the_filter_bank_itself_shares_are_of_its_frames(self) -> None:
        shapes = {"audio": ModalityShape(66, 32, raw=True)}
        banks = torch.randn(2, 66, 32, generator=torch.Generator().manual_seed(3))
        found = attention_rollout(made_up_head("mat", shapes), {"audio": banks}, {"audio": None})["audio"]
        assert found.shape == (2, 66)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
        assert (found[:, :64] > 0).all()
        assert (found[:, 64:] == 0).all()

    def test_heads_without_attention_say_so(self) -> None:
        assert why_without_attention(made_up_head("mlp")) == "head 'mlp' has no attention between cached tokens"
        assert why_without_attention(made_up_head("alpha")) == "head 'alpha' has no attention between cached tokens"
        assert why_without_attention(made_up_head("bottleneck")) is None


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


def trained(plan: TrainingJob) -> Head:
    (only,) = train_jobs([plan])
    return only.head.eval()


def explained(data: FusionData, head: str, epochs: int = 6, clips: int = 24, **rest: object) -> Explanation:
    plan = TrainingJob.of(head, data, 0, TrainingOverrides(epochs=epochs, **SMALL.get(head, {})))
    return explain(plan, [trained(plan)], data.test[:clips], **rest)


@pytest.fixture(scope="module")
def data() -> FusionData:
    return planted()


class TestGradCam:
    @pytest.mark.parametrize("head", ["audio", "mlp", "average", "crossattn", "bottleneck", "logreg"])
    def test_the_cell_that_carries_the_class_is_found(self, head: str) -> None:
        found = explained(planted(tells=["audio"]), head)
        maps = np.stack([found.heatmap("audio", 0, clip) for clip in range(24)])
        assert maps.shape == (24, *GRID)
        assert np.mean(maps.reshape(24, -1).argmax(axis=1) == CELL) > 0.8

    @pytest.mark.parametrize("head", ["video", "average", "crossattn", "logreg"])
    def test_the_frame_that_carries_the_class_is_found(self, head: str) -> None:
        found = explained(planted(tells=["video"]), head)
        assert np.mean(found.maps["video"].argmax(axis=1) == FRAME) > 0.8

    def test_it_is_the_formula(self) -> None:
        data = planted(48)
        head = build_head("crossattn", data.shapes, data.targets)
        plan = TrainingJob("crossattn", data, 0, Recipe(), head.Options())
        clips = data.test[:3]
        tokens = {name: data.modalities[name].tokens[clips].requires_grad_() for name in ("video", "audio")}
        logits = head.eval()(tokens, PRESENT)["logits"]
        gradients = torch.autograd.grad(logits[range(3), [2, 0, 1]].sum(), list(tokens.values()))
        found = explain(plan, [head], clips, classes=np.array([[2], [0], [1]]))
        for (name, own), gradient in zip(tokens.items(), gradients, strict=True):
            expected = (gradient.mean(dim=1)[:, None] * own).sum(dim=2).relu()
            expected = expected / expected.sum(dim=1, keepdim=True)
            np.testing.assert_allclose(found.maps[name], expected.detach().numpy(), rtol=1e-4, atol=1e-6)
        chances = logits.softmax(dim=1).detach().numpy()
        np.testing.assert_allclose(found.probabilities[:, 0], chances[range(3), [2, 0, 1]], rtol=1e-5)

    def test_seeds_are_averaged_and_the_likeliest_class_of_all_is_explained(self, data: FusionData) -> None:
        plans = [TrainingJob.of("audio", data, seed, TrainingOverrides(epochs=2)) for seed in (0, 1)]
        heads = [trained(plan) for plan in plans]
        clips = data.test[:10]
        both = explain(plans[0], heads, clips)
        each = [explain(plans[0], [head], clips, classes=both.classes) for head in heads]
        np.testing.assert_allclose(both.maps["audio"], np.mean([one.maps["audio"] for one in each], axis=0))
        chances = np.mean([one.probabilities for one in each], axis=0)
        np.testing.assert_allclose(both.probabilities, chances)
        assert (both.probabilities > 1 / 3).all()

    def test_clips_without_the_modality_have_no_map(self, data: FusionData) -> None:
        audio = data.modalities["audio"]
        present = audio.present.clone()
        present[data.test[1]] = False
        silent = replace(data, modalities={**data.modalities, "audio": replace(audio, present=present)})
        found = explained(silent, "mlp", epochs=1, clips=4)
        assert np.isnan(found.maps["audio"]).all(axis=1).tolist() == [False, True, False, False]
        assert np.isfinite(found.maps["video"]).all()

    def test_heads_that_take_cls_alone_have_none_and_say_so(self) -> None:
        data = planted(96, cls=True)
        found = explained(data, "mlp", epochs=1, clips=4)
        assert set(found.maps) == {"video"}
        assert found.without_map == {
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
        found = explained(data, "crossattn", epochs=1, clips=4, method="attention")
        assert found.heatmap("audio", 0, 0).shape == GRID
        for each in found.maps.values():
            np.testing.assert_allclose(each.sum(axis=1), 1)
        with pytest.raises(UsageError, match="head 'video' has no attention"):
            explained(data, "video", epochs=1, clips=4, method="attention")

    def test_windows_that_are_averaged_at_test_are_explained_together(self) -> None:
        data = windowed()
        found = explained(data, "video", epochs=15)
        assert found.heatmap("video", 0, 0).shape == (10,)
        assert np.mean(found.maps["video"].argmax(axis=1) == 5 + FRAME) > 0.8
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


class TestPlaces:
    def test_cells_are_the_tokens_behind_cls_with_time_first(self) -> None:
        (spec,) = resolve(["lite:fbank:tokens"])
        spec = spec.model_copy(update={"shape": (130, 16)})
        modality = Modality(
            torch.zeros(1, 130, 16), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("audio", [spec])
        )
        (part,) = feature_tokens(modality, (0,))
        np.testing.assert_array_equal(part.tokens, 2 + np.arange(128).reshape(4, 32))
        (spec,) = resolve(["timesformer:clip:tokens"], weights=WeightsChoice("random"))
        modality = Modality(
            torch.zeros(1, *spec.shape), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("video", [spec])
        )
        (part,) = feature_tokens(modality, (0,))
        assert part.tokens.shape == (8, 14, 14)
        np.testing.assert_array_equal(part.tokens[:, 0, 0], 1 + np.arange(8))

    def test_frames_of_cells_and_pictures(self) -> None:
        specs = resolve(["lite:frames:tokens"])
        length = int(np.prod(specs[0].shape[:-1]))
        modality = Modality(
            torch.zeros(1, length, 1280), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("video", specs)
        )
        (part,) = feature_tokens(modality, (0,))
        np.testing.assert_array_equal(part.tokens, np.arange(25 * 49).reshape(25, 7, 7))
        specs = resolve(["lite:mfcc", "lite:chromagram"])
        modality = Modality(
            torch.zeros(1, 2, 1280), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("audio", specs)
        )
        assert [(part.name, part.tokens.tolist()) for part in feature_tokens(modality, (0,))] == [
            ("lite:mfcc", 0),
            ("lite:chromagram", 1),
        ]
