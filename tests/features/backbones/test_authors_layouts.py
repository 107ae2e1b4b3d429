"""The files that the authors of AST and TimeSformer published, in their true layout, give what their own networks give.

The networks are spelled out here from timm's parts, as their authors built them.
"""

from pathlib import Path

import pytest
import timm
import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from avfuse.features import backbones
from avfuse.features.backbones.loading import load
from avfuse.features.backbones.weights import Weights, file_sha256
from avfuse.features.errors import UsageError


class AuthorsAst(nn.Module):
    """DeiT with one input channel, overlapping patches and a position for each of 12 x 101 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.v = timm.create_model("deit_base_distilled_patch16_384", pretrained=False)
        self.v.patch_embed.proj = nn.Conv2d(1, 768, kernel_size=16, stride=10)
        self.v.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1214, 768))
        self.mlp_head = nn.Sequential(nn.LayerNorm(768), nn.Linear(768, 527))

    def forward(self, banks: Tensor) -> Tensor:
        patches = self.v.patch_embed.proj(banks[:, None].transpose(2, 3)).flatten(2).transpose(1, 2)
        extra = [token.expand(len(banks), -1, -1) for token in (self.v.cls_token, self.v.dist_token)]
        tokens = torch.cat([*extra, patches], dim=1) + self.v.pos_embed
        return self.v.norm(self.v.blocks(tokens))


class AuthorsBlock(nn.Module):
    """Attention over time for each place, then over places for each time, CLS averaged over times."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.temporal_norm1 = (nn.LayerNorm(768, eps=1e-6) for _ in range(3))
        self.attn, self.temporal_attn = (Attention(768, num_heads=12, qkv_bias=True) for _ in range(2))
        self.temporal_fc = nn.Linear(768, 768)
        self.mlp = Mlp(768, 3072)

    def forward(self, tokens: Tensor, times: int) -> Tensor:
        first, rest = tokens[:, :1], tokens[:, 1:]
        batch, count, dim = rest.shape
        places = count // times
        moved = self.temporal_attn(self.temporal_norm1(rest.reshape(batch * places, times, dim)))
        rest = rest + self.temporal_fc(moved.reshape(batch, count, dim))
        by_time = rest.reshape(batch, places, times, dim).transpose(1, 2).reshape(batch * times, places, dim)
        with_first = torch.cat([first.repeat_interleave(times, dim=0), by_time], dim=1)
        seen = self.attn(self.norm1(with_first))
        change_of_first = seen[:, 0].reshape(batch, times, dim).mean(dim=1, keepdim=True)
        change = seen[:, 1:].reshape(batch, times, places, dim).transpose(1, 2).reshape(batch, count, dim)
        tokens = torch.cat([first + change_of_first, rest + change], dim=1)
        return tokens + self.mlp(self.norm2(tokens))


class AuthorsTimeSformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 768, kernel_size=16, stride=16)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, 768))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 197, 768))
        self.time_embed = nn.Parameter(0.02 * torch.randn(1, 8, 768))
        self.blocks = nn.ModuleList([AuthorsBlock() for _ in range(12)])
        self.norm = nn.LayerNorm(768, eps=1e-6)
        self.head = nn.Linear(768, 400)

    def forward(self, clips: Tensor) -> Tensor:
        batch, times = clips.shape[:2]
        patches = self.patch_embed.proj(clips.flatten(0, 1)).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        patches = patches.unflatten(0, (batch, times)).transpose(1, 2) + self.time_embed[:, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        tokens = torch.cat([first, patches.flatten(1, 2)], dim=1)
        for block in self.blocks:
            tokens = block(tokens, times)
        return self.norm(tokens)


@pytest.mark.slow
@torch.inference_mode()
def test_asts_authors_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = AuthorsAst().eval()
    for module in reference.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = (
                1e-12  # as in the configuration on the hub; the authors' 1e-6 moves random tokens by up to 2e-3
            )
    path = tmp_path / "audioset_10_10_0.4593.pth"
    torch.save({f"module.{name}": tensor for name, tensor in reference.state_dict().items()}, path)
    assert "module.v.head_dist.weight" in torch.load(path, weights_only=True)
    banks = torch.randn(1, 1024, 128)
    encoded = load(backbones.get_backbone("ast"), Weights(path, file_sha256(path)), "cpu")(banks, None)
    expected = reference(banks)
    torch.testing.assert_close(encoded.tokens, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoded.pooled, expected[:, :2].mean(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_timesformers_authors_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = AuthorsTimeSformer().eval()
    path = tmp_path / "TimeSformer_divST_8x32_224_K400.pyth"
    state = {f"model.{name}": tensor for name, tensor in reference.state_dict().items()}
    torch.save({"epoch": 14, "model_state": state, "optimizer_state": {"state": {}}, "cfg": "TRAIN: true"}, path)
    backbone = backbones.get_backbone("timesformer")
    pixels = torch.randint(0, 256, (1, 8, 224, 224, 3), dtype=torch.uint8)
    encoded = load(backbone, Weights(path, file_sha256(path)), "cpu")(pixels, backbone.preprocess)
    inputs = ((pixels / 255 - 0.45) / 0.225).movedim(-1, 2)
    torch.testing.assert_close(encoded.tokens, reference(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ast", "timesformer"])
def test_an_authors_file_that_is_not_whole_is_refused(name: str, tmp_path: Path) -> None:
    reference, prefix = (AuthorsAst(), "module.v.") if name == "ast" else (AuthorsTimeSformer(), "model.")
    state = {f"{prefix.removesuffix('v.')}{key}": value for key, value in reference.state_dict().items()}
    del state[f"{prefix}norm.bias"]
    state[f"{prefix}pos_embed"] = torch.zeros(5)
    state[f"{prefix}of_something_else"] = torch.zeros(5)
    path = tmp_path / "broken.pth"
    torch.save(state, path)
    with pytest.raises(UsageError) as caught:
        load(backbones.get_backbone(name), Weights(path, "x"), "cpu")
    said = str(caught.value)
    for problem in ("1 tensors are missing", "1 tensors are unexpected", "1 tensors are of another shape"):
        assert problem in said
    assert "\n" not in said
