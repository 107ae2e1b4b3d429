"""Attention weights and rollout, on heads with random weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.analysis.attention_rollout import attention_rollout, record_attention, why_without_attention
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, get_head

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
