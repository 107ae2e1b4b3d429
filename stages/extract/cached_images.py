"""Audio images that are in the cache already: what is made from them needs no media."""

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
from avfuse.features.inputs.resize import fit_image
from avfuse.features.spec import AnyInput, FeatureSpec, ImageInput, View


class CachedImages:
    """The cached `image:...` features that some features could be made from."""

    def __init__(self, cache: Path, collection: str, specs: Iterable[FeatureSpec]) -> None:
        wanted = dict.fromkeys(spec.input.as_drawn for spec in specs if isinstance(spec.input, ImageInput))
        stores = {image: FeatureStore(cache, collection, image_spec(image)) for image in wanted}
        self._stores = {image: store for image, store in stores.items() if store.paths()}

    @property
    def bytes_per_clip(self) -> int:
        """Of all that `load` reads."""
        return sum(store.spec.bytes_per_clip for store in self._stores.values())

    def known(self, clips: Sequence[Clip]) -> dict[ImageInput, NDArray[np.bool_]]:
        """For every image: of which clips (n,) it is known what their picture is, or that they have no sound."""
        asked = ClipQuery(clips)
        return {image: np.isin(store.lookup(asked).outcome, (DONE, NO_SOUND)) for image, store in self._stores.items()}

    def load(self, wanted: Iterable[AnyInput], clips: Sequence[Clip]) -> "ImageBatch":
        """Those that are there of some clips; shards are verified. Raises UsageError on a damaged one."""
        images = {each.as_drawn for each in wanted if isinstance(each, ImageInput)}
        return ImageBatch({image: self._stores[image].load(clips) for image in images & self._stores.keys()})


class ImageBatch:
    """Cached pictures of some clips."""

    def __init__(self, loaded: Mapping[ImageInput, Loaded]) -> None:
        self._loaded = loaded

    def get(self, wanted: ImageInput, index: int, clip: Clip) -> NDArray[np.uint8] | NoAudio | ClipError:
        """The picture of the clip at `index`, at the size that a backbone takes: uint8 (*wanted.shape)."""
        loaded = self._loaded[wanted.as_drawn]
        if loaded.missing.get(clip.clip_id) == NO_AUDIO:
            return NoAudio()
        if not loaded.present[index]:
            return ClipError("worker", "its media file was replaced while it was worked on")
        return fit_image(loaded.data[index].astype(np.uint8, copy=False), wanted.preprocess)


def mirror(pixels: NDArray[Any], view: View) -> NDArray[Any]:
    """A picture, or frames, (..., H, W, 3), seen mirrored: `h` left to right, `v` top to bottom, `hv` both."""
    if "h" in view:
        pixels = pixels[..., ::-1, :]
    if "v" in view:
        pixels = pixels[..., ::-1, :, :]
    return pixels
