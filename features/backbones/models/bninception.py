"""BN-Inception, the network of Temporal Segment Networks, in plain PyTorch.

Ioffe and Szegedy, "Batch Normalization" (2015), figure 5, in the version of the Caffe model behind TSN's
checkpoints: biased convolutions, pooling that rounds up, and flat module names (`inception_3a_double_3x3_1_bn`), kept
so that these checkpoints load strictly.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class _InceptionBlock:
    """Channels of an inception block's branches. With stride 2 there is no 1x1 branch and no projection: the pooled
    input is passed on as it is."""

    name: str
    channels_in: int
    single: int | None
    triple: tuple[int, int]
    double: tuple[int, int]
    pool: Literal["avg", "max"]
    projection: int | None

    @property
    def stride(self) -> int:
        return 1 if self.single is not None else 2


_BLOCKS = (
    _InceptionBlock("3a", 192, 64, (64, 64), (64, 96), "avg", 32),
    _InceptionBlock("3b", 256, 64, (64, 96), (64, 96), "avg", 64),
    _InceptionBlock("3c", 320, None, (128, 160), (64, 96), "max", None),
    _InceptionBlock("4a", 576, 224, (64, 96), (96, 128), "avg", 128),
    _InceptionBlock("4b", 576, 192, (96, 128), (96, 128), "avg", 128),
    _InceptionBlock("4c", 576, 160, (128, 160), (128, 160), "avg", 128),
    _InceptionBlock("4d", 608, 96, (128, 192), (160, 192), "avg", 128),
    _InceptionBlock("4e", 608, None, (128, 192), (192, 256), "max", None),
    _InceptionBlock("5a", 1056, 352, (192, 320), (160, 224), "avg", 128),
    _InceptionBlock("5b", 1024, 352, (192, 320), (192, 224), "max", 128),
)


class BNInception(nn.Module):
    """BN-Inception without its last linear layer. 10.3 M parameters, 2.03 GMACs at 224x224.

    Input: float (B, 3, H, W), BGR, pixel values 0-255 minus (104, 117, 128). `forward_map` gives (B, 1024, H/32, W/32),
    `forward_pooled` (B, 1024).
    """

    feature_dim = 1024

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, kernel=7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, kernel=1)
        self._add("conv2_3x3", 64, 192, kernel=3)
        for block in _BLOCKS:
            prefix = f"inception_{block.name}"
            if block.single is not None:
                self._add(f"{prefix}_1x1", block.channels_in, block.single, kernel=1)
            self._add(f"{prefix}_3x3_reduce", block.channels_in, block.triple[0], kernel=1)
            self._add(f"{prefix}_3x3", *block.triple, kernel=3, stride=block.stride)
            self._add(f"{prefix}_double_3x3_reduce", block.channels_in, block.double[0], kernel=1)
            self._add(f"{prefix}_double_3x3_1", *block.double, kernel=3)
            self._add(f"{prefix}_double_3x3_2", block.double[1], block.double[1], kernel=3, stride=block.stride)
            if block.projection is not None:
                self._add(f"{prefix}_pool_proj", block.channels_in, block.projection, kernel=1)

    def _add(self, name: str, channels_in: int, channels_out: int, *, kernel: int, stride: int = 1) -> None:
        setattr(self, name, nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2))
        setattr(self, f"{name}_bn", nn.BatchNorm2d(channels_out))

    def _step(self, name: str, x: Tensor) -> Tensor:
        convolved: Tensor = getattr(self, f"{name}_bn")(getattr(self, name)(x))
        return F.relu(convolved, inplace=True)

    def _inception(self, block: _InceptionBlock, x: Tensor) -> Tensor:
        prefix = f"inception_{block.name}"
        triple = self._step(f"{prefix}_3x3", self._step(f"{prefix}_3x3_reduce", x))
        double = self._step(f"{prefix}_double_3x3_1", self._step(f"{prefix}_double_3x3_reduce", x))
        double = self._step(f"{prefix}_double_3x3_2", double)
        if block.stride == 2:
            return torch.cat([triple, double, _max_pool(x, stride=2)], dim=1)
        pooled = F.avg_pool2d(x, 3, 1, padding=1, ceil_mode=True) if block.pool == "avg" else _max_pool(x, stride=1)
        single, projected = self._step(f"{prefix}_1x1", x), self._step(f"{prefix}_pool_proj", pooled)
        return torch.cat([single, triple, double, projected], dim=1)

    def forward_map(self, images: Tensor) -> Tensor:
        x = _max_pool(self._step("conv1_7x7_s2", images), stride=2)
        x = _max_pool(self._step("conv2_3x3", self._step("conv2_3x3_reduce", x)), stride=2)
        for block in _BLOCKS:
            x = self._inception(block, x)
        return x

    def forward_pooled(self, images: Tensor) -> Tensor:
        return self.forward_map(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_pooled(images)


def _max_pool(x: Tensor, stride: int) -> Tensor:
    return F.max_pool2d(x, 3, stride, padding=1 if stride == 1 else 0, ceil_mode=True)
