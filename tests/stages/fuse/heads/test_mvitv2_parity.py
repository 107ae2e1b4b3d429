"""The Multiscale Audio Transformer against timm's MViTv2, with the same weights."""

from collections.abc import Iterator

import pytest
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

from avfuse.stages.fuse.heads.multiscale import (
    MAT,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def mat() -> Iterator[MAT]:
    torch.manual_seed(0)
    return MAT().eval()


def translated(name: str) -> str:
    """A parameter's name in timm's network."""
    pairs = [
        ("pools.0.convolve", "pool_q"),
        ("pools.1.convolve", "pool_k"),
        ("pools.2.convolve", "pool_v"),
        ("pools.0.norm", "norm_q"),
        ("pools.1.norm", "norm_k"),
        ("pools.2.norm", "norm_v"),
        ("positions.frequency", "rel_pos_h"),
        ("positions.time", "rel_pos_w"),
        ("attend.project", "attn.proj"),
        ("attend.", "attn."),
        ("widen", "shortcut_proj_attn"),
        ("feed.0", "norm2"),
        ("feed.1", "mlp.fc1"),
        ("feed.3", "mlp.fc2"),
        ("stem", "patch_embed.proj"),
    ]
    for ours, theirs in pairs:
        name = name.replace(ours, theirs)
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        stage = next(stage for stage, end in enumerate((2, 5, 21, 24)) if int(number) < end)
        rest = rest.replace("norm.", "norm1.") if rest.startswith("norm.") else rest
        return f"stages.{stage}.blocks.{int(number) - (0, 2, 5, 21)[stage]}.{rest}"
    return name


def with_weights_of(mat: MAT) -> nn.Module:
    """timm's MViTv2-B, cut to MAT's strides. It makes tables of positions for square grids only, so they are put in
    afterwards; and it adds E_rel undivided."""
    config = MultiScaleVitCfg(
        patch_kernel=(16, 16),
        patch_stride=(8, 4),
        patch_padding=(0, 0),
        stride_q=((1, 1), (1, 2), (2, 2), (2, 2)),
        stride_kv=((4, 4), (4, 2), (2, 1), (1, 1)),
        rel_pos_type="none",
        norm_eps=1e-5,
    )
    reference = MultiScaleVit(config, in_chans=1, num_classes=0).double().eval()
    state = {translated(name): value for name, value in mat.state_dict().items()}
    for name in [name for name in state if "rel_pos" in name]:
        attention = reference.get_submodule(name.rpartition(".")[0])
        attention.rel_pos_type = "spatial"
        table = state.pop(name)
        setattr(attention, name.rpartition(".")[2], table / table.shape[1] ** 0.5)
    reference.load_state_dict(state)
    return reference


@pytest.mark.slow
def test_on_a_grid_that_the_strides_divide_it_is_mvitv2() -> None:
    """8 x 32 cells: where nothing is rounded, every token agrees with timm's network of the same weights."""
    mat = MAT(bands=8 * 7 + 16, frames=4 * 31 + 16).double().eval()
    for name, parameter in mat.named_parameters():
        if "positions" in name:  # as large as the products they are added to
            nn.init.normal_(parameter)
    reference = with_weights_of(mat)
    banks = torch.randn(2, 140, 72, dtype=torch.float64)
    with torch.no_grad():
        tokens, pooled = mat(banks)
        theirs = reference.forward_features(banks.transpose(1, 2)[:, None])
    assert mat.grids == [(8, 32), (8, 32), (8, 16), (4, 8), (2, 4)]
    torch.testing.assert_close(tokens, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pooled, theirs.mean(dim=1), rtol=1e-9, atol=1e-9)
