"""`torchvision:NAME`: any classifier of pictures or videos of torchvision, with its default weights."""

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
"""What torchvision's builders set when they load weights, which here are loaded elsewhere."""


def adapt(name: str) -> Backbone:
    """Raises UsageError for a network that torchvision does not have, or that has no classifier to take away."""
    from torchvision import models

    pictures, videos = models.list_models(module=models), models.list_models(module=models.video)
    if name not in (*pictures, *videos):
        near = difflib.get_close_matches(name, (*pictures, *videos), 3, cutoff=0.5)
        raise UsageError(
            f"torchvision has no network '{name}'{': did you mean ' + ', '.join(near) + '?' if near else ''}"
        )
    weights = models.get_model_weights(name).DEFAULT
    classes = len(weights.meta["categories"])
    classifier = _classifier(models.get_model(name, weights=None, **_AS_PUBLISHED.get(name, {})), classes)
    if classifier is None:
        raise UsageError(f"torchvision's {name} has no linear classifier to take away: use another network")

    def make() -> nn.Module:
        from torch.nn import Identity

        network = models.get_model(name, weights=None, **_AS_PUBLISHED.get(name, {}))
        network.set_submodule(classifier, Identity())
        return network

    is_video = name in videos
    preprocess = _preprocess(weights.transforms(), is_video)
    shape = (3, preprocess.crop, preprocess.crop)
    encode = _encode_clips if is_video else _encode_pictures
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
    """The name of the last linear layer that gives as many numbers as there are classes."""
    from torch.nn import Linear

    named = [
        name for name, part in network.named_modules() if isinstance(part, Linear) and part.out_features == classes
    ]
    return named[-1] if named else None


def _encode_pictures(network: Any, pictures: Tensor) -> Encoded:
    return Encoded(network(pictures))


def _encode_clips(network: Any, clips: Tensor) -> Encoded:
    return Encoded(network(clips.transpose(1, 2)))


def _preprocess(transform: Any, is_video: bool) -> Preprocess:
    """From torchvision's ImageClassification or VideoClassification."""
    resize = transform.resize_size
    return Preprocess(
        resize=resize[0] if len(resize) == 1 else (resize[0], resize[1]),
        crop=transform.crop_size[0],
        interpolation=transform.interpolation.value,
        antialias=not is_video,
        mean=tuple(255 * each for each in transform.mean),
        std=tuple(255 * each for each in transform.std),
    )
