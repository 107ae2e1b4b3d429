"""EfficientNet-Lite0, as Google published it, in plain PyTorch.

The network is the TPU/mobile variant of EfficientNet-B0: no squeeze-and-excitation, ReLU6 for swish, stem and head of
fixed width. Module names follow the state dict of the checkpoint's PyTorch port (`_blocks.0._bn1`, ...),
so that it loads strictly, without a renaming table.

Source: M. Tan, "Higher accuracy on vision models with EfficientNet-Lite" (2020) and the TensorFlow definition,
`efficientnet_lite_builder.py`, whose strided convolutions pad as TensorFlow's "SAME" does.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class _Stage:
    expansion: int
    kernel: int
    stride: int
    channels: int
    repeats: int


_LITE0_STAGES = (
    _Stage(expansion=1, kernel=3, stride=1, channels=16, repeats=1),
    _Stage(expansion=6, kernel=3, stride=2, channels=24, repeats=2),
    _Stage(expansion=6, kernel=5, stride=2, channels=40, repeats=2),
    _Stage(expansion=6, kernel=3, stride=2, channels=80, repeats=3),
    _Stage(expansion=6, kernel=5, stride=1, channels=112, repeats=3),
    _Stage(expansion=6, kernel=5, stride=2, channels=192, repeats=4),
    _Stage(expansion=6, kernel=3, stride=1, channels=320, repeats=1),
)


class SamePadConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`: the output has ceil(size / stride) rows and columns, and when the
    padding is odd the extra row and column go to the bottom and the right. `padding` of the base class is unused."""

    def forward(self, input: Tensor) -> Tensor:
        vertical = self._total_padding(input.shape[-2], axis=0)
        horizontal = self._total_padding(input.shape[-1], axis=1)
        if vertical % 2 == 0 and horizontal % 2 == 0:  # symmetric: no copy of the input needed
            padding = (vertical // 2, horizontal // 2)
        else:
            sides = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
            input, padding = F.pad(input, sides), (0, 0)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _total_padding(self, size: int, axis: int) -> int:
        kernel, stride = self.kernel_size[axis], self.stride[axis]
        return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)


def _relu6(x: Tensor) -> Tensor:
    # In place: its input is always the fresh output of a layer, and the saved memory pass is a tenth of the time.
    return F.relu6(x, inplace=True)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPSILON)


class _InvertedResidual(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1; a skip connection where shapes allow. Shapes: (B, C, H, W) in and out."""

    def __init__(self, channels_in: int, channels_out: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self._has_expansion = expansion != 1
        self._has_skip = stride == 1 and channels_in == channels_out
        if self._has_expansion:
            self._expand_conv = SamePadConv2d(channels_in, inner, 1, bias=False)
            self._bn0 = _batch_norm(inner)
        self._depthwise_conv = SamePadConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _batch_norm(inner)
        self._project_conv = SamePadConv2d(inner, channels_out, 1, bias=False)
        self._bn2 = _batch_norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._has_expansion:
            y = _relu6(self._bn0(self._expand_conv(y)))
        y = _relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._has_skip else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with its 1000-class ImageNet layer. 4.65 M parameters, 0.39 GMACs at 224x224.

    Input: float (B, 3, H, W), RGB, (pixel - 127) / 128. `forward_map` gives (B, 1280, H/32, W/32), `forward_pooled`
    (B, 1280), `forward` the 1000 logits.
    """

    feature_dim = 1280

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SamePadConv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _batch_norm(32)
        blocks: list[nn.Module] = []
        channels = 32
        for stage in _LITE0_STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(
                    _InvertedResidual(
                        channels, stage.channels, expansion=stage.expansion, kernel=stage.kernel, stride=stride
                    )
                )
                channels = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SamePadConv2d(channels, self.feature_dim, 1, bias=False)
        self._bn1 = _batch_norm(self.feature_dim)
        self._fc = nn.Linear(self.feature_dim, 1000)

    def forward_map(self, images: Tensor) -> Tensor:
        x = _relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return _relu6(self._bn1(self._conv_head(x)))

    def forward_pooled(self, images: Tensor) -> Tensor:
        return self.forward_map(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self._fc(self.forward_pooled(images))


@torch.no_grad()
def fold_batch_norms(network: EfficientNetLite0) -> EfficientNetLite0:
    """Merge every batch norm into the convolution before it, in place: the same function (to float rounding), with
    one memory pass less per layer. For inference only."""
    pairs: list[tuple[nn.Module, str, str]] = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for module, conv_name, norm_name in pairs:
        fused = nn.utils.fusion.fuse_conv_bn_eval(getattr(module, conv_name), getattr(module, norm_name))
        setattr(module, conv_name, fused)
        setattr(module, norm_name, nn.Identity())
    return network
