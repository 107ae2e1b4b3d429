"""Networks that see frames together (TimeSformer, Video Swin, MViTv2), and AST, which hears a filter bank."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.backbones.loading import read_state
from features.backbones.picture_networks import without
from features.backbones.registry import Backbone, Encoded, Grid, register
from features.backbones.weights import Address, Checkpoint, Hub
from features.errors import UsageError
from features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

_GREY_MEAN, _GREY_STD = (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _transformers(name: str) -> tuple[Callable[[], nn.Module], Callable[[Path], nn.Module]]:
    """How one of transformers' encoders is made, and read from a file of its hub repository.

    The names of its tensors change from one version of transformers to the next, and only transformers knows how.
    """

    def make() -> nn.Module:
        import transformers

        network: nn.Module = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")())
        return network

    def read(path: Path) -> nn.Module:
        import transformers

        read_state(path)  # what is no checkpoint at all is told apart here
        with tempfile.TemporaryDirectory() as folder:
            getattr(transformers, f"{name}Config")().save_pretrained(folder)
            file = "model.safetensors" if path.suffix == ".safetensors" else "pytorch_model.bin"
            (Path(folder) / file).symlink_to(path.resolve())
            network, told = getattr(transformers, f"{name}Model").from_pretrained(folder, output_loading_info=True)
        missing = sorted(told["missing_keys"])
        if missing or told["mismatched_keys"]:
            wrong = [*missing, *(str(each[0]) for each in told["mismatched_keys"])]
            raise UsageError(
                f"{path} is no checkpoint of transformers' {name}Model: {len(wrong)} tensors are missing or have "
                f"another shape, such as {wrong[0]}"
            )
        return network  # type: ignore[no-any-return]

    return make, read


_make_ast, _read_ast = _transformers("AST")
_make_timesformer, _read_timesformer = _transformers("Timesformer")


def _ast_tokens(network: Any, banks: Tensor) -> Encoded:
    given = network(banks)
    return Encoded(given.pooler_output, given.last_hidden_state)


AST = register(
    Backbone(
        name="ast",
        revision=1,
        inputs=("fbank",),
        feature_dim=768,
        preprocess=None,
        checkpoints=(
            Checkpoint(
                name="ast-audioset",
                file="ast-finetuned-audioset-10-10-0.4593.safetensors",
                licence="BSD-3-Clause",
                source=Hub("MIT/ast-finetuned-audioset-10-10-0.4593"),
            ),
        ),
        make=_make_ast,
        read=_read_ast,
        encode=_ast_tokens,
        grid=lambda side, frames: Grid((12, 101), prefix=2),
    )
)


def _timesformer_tokens(network: Any, clips: Tensor) -> Encoded:
    tokens = network(clips).last_hidden_state
    return Encoded(tokens[:, 0], tokens)


TIMESFORMER = register(
    Backbone(
        name="timesformer",
        revision=1,
        inputs=("clip",),
        feature_dim=768,
        preprocess=Preprocess(
            resize=224, crop=224, interpolation="bilinear", centre="before", mean=_GREY_MEAN, std=_GREY_STD
        ),
        checkpoints=(
            Checkpoint(
                name="timesformer-k400",
                file="timesformer-base-finetuned-k400.safetensors",
                licence="CC-BY-NC-4.0",
                non_commercial=True,
                source=Hub("facebook/timesformer-base-finetuned-k400"),
            ),
        ),
        make=_make_timesformer,
        read=_read_timesformer,
        encode=_timesformer_tokens,
        grid=lambda side, frames: Grid((side // 16, side // 16, frames), prefix=1),  # time runs fastest
        frame_counts=(8,),
        sampling="uniform:8",
    )
)


def _torchvisions(mean: tuple[float, float, float], std: tuple[float, float, float]) -> Preprocess:
    """torchvision resizes videos without antialiasing, as its checkpoints saw them in training."""
    return Preprocess(resize=256, crop=224, interpolation="bilinear", antialias=False, mean=mean, std=std)


def _torchvision(architecture: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision
        from torch import nn

        network: nn.Module = torchvision.models.get_model(architecture, weights=None)
        network.head = nn.Identity()
        return network

    return make


def _kinetics_checkpoint(name: str, file: str) -> Checkpoint:
    return Checkpoint(
        name=name,
        file=file,
        licence="BSD-3-Clause",
        source=Address(f"https://download.pytorch.org/models/{file}"),
        sha256=file.rpartition("-")[2].partition(".")[0],
    )


def _swin_tokens(network: Any, clips: Tensor) -> Encoded:
    cells = network.patch_embed(clips.transpose(1, 2))
    cells = network.norm(network.features(network.pos_drop(cells)))  # (B, T / 2, H / 32, W / 32, D)
    tokens = cells.flatten(1, 3)
    return Encoded(tokens.mean(dim=1), tokens)


SWIN3D = register(
    Backbone(
        name="swin3d",
        revision=1,
        inputs=("clip",),
        feature_dim=1024,
        preprocess=_torchvisions(_IMAGENET_MEAN, _IMAGENET_STD),
        checkpoints=(_kinetics_checkpoint("swin3d-k400", "swin3d_b_1k-24f7c7c6.pth"),),
        make=_torchvision("swin3d_b"),
        translate=without("head."),
        encode=_swin_tokens,
        grid=lambda side, frames: Grid((frames // 2, side // 32, side // 32), pooled=3),
        frame_counts=(16, 32),
        sampling="uniform:16",
    )
)


def _mvit_tokens(network: Any, clips: Tensor) -> Encoded:
    tokens = network.conv_proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2)
    tokens = network.pos_encoding(tokens)
    size = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
    for block in network.blocks:
        tokens, size = block(tokens, size)
    tokens = network.norm(tokens)
    return Encoded(tokens[:, 0], tokens)


MVIT = register(
    Backbone(
        name="mvit_v2_s",
        revision=1,
        inputs=("clip",),
        feature_dim=768,
        preprocess=_torchvisions(_GREY_MEAN, _GREY_STD),
        checkpoints=(_kinetics_checkpoint("mvit_v2_s-k400", "mvit_v2_s-ae3be167.pth"),),
        make=_torchvision("mvit_v2_s"),
        translate=without("head."),
        encode=_mvit_tokens,
        grid=lambda side, frames: Grid((frames // 2, side // 32, side // 32), prefix=1, pooled=3),
        frame_counts=(16,),
        sampling="uniform:16",
    )
)
