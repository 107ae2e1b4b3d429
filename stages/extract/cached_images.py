"""Cached audio images: features made from them need no media; and mirrored views."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.store import DONE, NO_AUDIO, NO_SOUND, Loaded
from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError
from avfuse.features.feature_names import image_spec
from avfuse.features.inputs.prepare import NoAudio
from avfuse.features.inputs.resize import resize_image
from avfuse.features.spec import AnyInput, FeatureSpec, ImageInput, View


class CachedImages:
    """The cached `image:...` features from which other features can be made."""

    def __init__(self, cache: Path, collection: str, specs: Iterable[FeatureSpec]) -> None:
        images = dict.fromkeys(spec.input.as_drawn for spec in specs if isinstance(spec.input, ImageInput))
        stores = {image: FeatureStore(cache, collection, image_spec(image)) for image in images}
        self._stores = {image: store for image, store in stores.items() if store.paths()}

    @property
    def bytes_per_clip(self) -> int:
        """Bytes that `load` reads per clip."""
        return sum(store.spec.bytes_per_clip for store in self._stores.values())

    def known(self, clips: Sequence[Clip]) -> dict[ImageInput, NDArray[np.bool_]]:
        """Mask per image, bool (n,): the clips that have it in the cache, or are known to have no sound."""
        query = ClipQuery(clips)
        return {image: np.isin(store.lookup(query).outcome, (DONE, NO_SOUND)) for image, store in self._stores.items()}

    def load(self, inputs: Iterable[AnyInput], clips: Sequence[Clip]) -> "ImageBatch":
        """Load the cached images among `inputs`. Shards are verified; raises UsageError for a damaged one."""
        images = {image.as_drawn for image in inputs if isinstance(image, ImageInput)}
        return ImageBatch({image: self._stores[image].load(clips) for image in images & self._stores.keys()})


class ImageBatch:
    """Cached audio images of some clips."""

    def __init__(self, loaded: Mapping[ImageInput, Loaded]) -> None:
        self._loaded = loaded

    def get(self, image: ImageInput, index: int, clip: Clip) -> NDArray[np.uint8] | NoAudio | ClipError:
        """The image of the clip at `index`, at the size that a backbone takes: uint8 (*image.shape)."""
        loaded = self._loaded[image.as_drawn]
        if loaded.missing.get(clip.clip_id) == NO_AUDIO:
            return NoAudio()
        if not loaded.present[index]:
            return ClipError("worker", "its media file was replaced while it was worked on")
        return resize_image(loaded.data[index].astype(np.uint8, copy=False), image.preprocess)


def mirror(pixels: NDArray[Any], view: View) -> NDArray[Any]:
    """Mirror images (..., H, W, 3): `h` left to right, `v` top to bottom, `hv` both."""
    if "h" in view:
        pixels = pixels[..., ::-1, :]
    if "v" in view:
        pixels = pixels[..., ::-1, :, :]
    return pixels
