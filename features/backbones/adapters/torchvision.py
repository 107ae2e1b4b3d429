"""`torchvision:NAME`: any image or video classifier of torchvision, with its default weights."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from avfuse.features.backbones.adapters.output_shapes import probe_output_shapes
from avfuse.features.backbones.models.image_models import drop_prefixes
from avfuse.features.backbones.registry import Backbone, Encoded
from avfuse.features.backbones.weights import Checkpoint, Url
from avfuse.features.errors import UsageError
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "torchvision"
CLIP_FRAMES = 16
_AS_PUBLISHED: dict[str, dict[str, bool]] = {
    name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")
}
"""Options that torchvision's builders set when they load pretrained weights."""


def adapt(name: str) -> Backbone:
    """The backbone of a torchvision network. Raises UsageError for an unknown one, or one without a classifier."""
    from torchvision import models

    image_models, video_models = models.list_models(module=models), models.list_models(module=models.video)
    if name not in (*image_models, *video_models):
        near = difflib.get_close_matches(name, (*image_models, *video_models), 3, cutoff=0.5)
        raise UsageError(
            f"torchvision has no network '{name}'{': did you mean ' + ', '.join(near) + '?' if near else ''}"
        )
    weights = models.get_model_weights(name).DEFAULT
    classes = len(weights.meta["categories"])
    classifier = _classifier(models.get_model(name, weights=None, **_AS_PUBLISHED.get(name, {})), classes)
    if classifier is None:
        raise UsageError(f"torchvision's {name} has no linear classifier to remove: use another network")

    def make() -> nn.Module:
        from torch.nn import Identity

        network = models.get_model(name, weights=None, **_AS_PUBLISHED.get(name, {}))
        network.set_submodule(classifier, Identity())
        return network

    is_video = name in video_models
    preprocess = _preprocess(weights.transforms(), is_video)
    shape = (3, preprocess.crop, preprocess.crop)
    encode = _encode_clips if is_video else _encode_images
    file = weights.url.rpartition("/")[2]
    return Backbone(
        name=f"{PREFIX}:{name}",
        revision=1,
        inputs=("clip",) if is_video else ("frames", "image"),
        feature_dim=probe_output_shapes(make, encode, (CLIP_FRAMES, *shape) if is_video else shape).feature_dim,
        preprocess=preprocess,
        checkpoints=(
            Checkpoint(
                name=f"{PREFIX}:{name}",
                file=file,
                licence="BSD-3-Clause",
                source=Url(weights.url),
                sha256=file.rpartition("-")[2].partition(".")[0],
            ),
        ),
        make=make,
        translate=drop_prefixes(f"{classifier}."),
        encode=encode,
        sampling=f"uniform:{CLIP_FRAMES}",
    )


def _classifier(network: nn.Module, classes: int) -> str | None:
    """The name of the last linear layer with one output per class."""
    from torch.nn import Linear

    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, Linear) and module.out_features == classes
    ]
    return names[-1] if names else None


def _encode_images(network: Any, images: Tensor) -> Encoded:
    return Encoded(network(images))


def _encode_clips(network: Any, clips: Tensor) -> Encoded:
    return Encoded(network(clips.transpose(1, 2)))


def _preprocess(transform: Any, is_video: bool) -> Preprocess:
    """The Preprocess of torchvision's ImageClassification or VideoClassification."""
    resize = transform.resize_size
    return Preprocess(
        resize=resize[0] if len(resize) == 1 else (resize[0], resize[1]),
        crop=transform.crop_size[0],
        interpolation=transform.interpolation.value,
        antialias=not is_video,
        mean=tuple(255 * value for value in transform.mean),
        std=tuple(255 * value for value in transform.std),
    )
