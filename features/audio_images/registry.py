"""Audio images: the record that describes one, and the registry of all.

A new one is a file with an `AudioImage`: a module beside `maivar.py`, registered in the package's `__init__`, or a
user's own file, named by AVFUSE_AUDIO_IMAGES, that calls `register`. Features, commands and the page list what is here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points

import numpy as np

from avfuse.features.audio_images.raster import Array, Image
from avfuse.features.audio_images.spectral import SpectralFeatures
from avfuse.features.audio_images.styles import Aligned, Paper
from avfuse.features.errors import UsageError
from avfuse.features.plugins import run_plugin_files

PLUGIN_FILES, ENTRY_POINTS = "AVFUSE_AUDIO_IMAGES", "avfuse.audio_images"
_OTHER_INPUTS = frozenset(["frames", "clip", "images", "fbank", "sound"])


@dataclass(frozen=True, kw_only=True)
class AudioImage:
    """A way to draw a sound. Both styles draw it without axes or labels: all of it is content."""

    name: str
    """A plain word, as in the features `image:NAME` and `lite:NAME` and in the file `NAME.png`."""

    shows: str
    """The content in one line, for people; the table in docs/audio-images.md holds the built-in ones'."""

    compute: Callable[[SpectralFeatures], Array] | None
    """Values to draw: (T,) become a curve over the faint envelope, (rows, T) a matrix in colours with row 0 at the
    bottom, T being the transform's frames. None draws the signal's envelope alone."""

    colour_map: str | None = None
    """matplotlib's name of a matrix' colours; None: librosa.display's rule, `coolwarm` where the bulk of the values
    lies on both sides of zero, else `magma`."""

    revision: int = 1
    """Part of a feature's key: raise it when the same samples give other pixels."""

    def draw(self, features: SpectralFeatures, style: Aligned | Paper) -> Image:
        """Pixels (height, width, 3), uint8, in a style that was set up for these features."""
        if self.compute is None:
            return style.waveplot()
        values = self.compute(features)
        if values.ndim == 1:
            return style.curve(values)
        return style.matrix(values, self.colour_map or _signed_colour_map(values))


_IMAGES: dict[str, AudioImage] = {}


def register(*images: AudioImage) -> None:
    """Add audio images. Raises UsageError for a name that is taken, or that is not one plain word."""
    for image in images:
        name = image.name
        if name in {*_IMAGES, *_OTHER_INPUTS} or not re.fullmatch(r"\w+", name):
            raise UsageError(f"an audio image cannot be called '{name}': the name is taken, or not one plain word")
        _IMAGES[name] = image


def list_audio_images() -> tuple[str, ...]:
    """Names of all registered audio images, the built-in ones first. Raises UsageError for a plug-in that fails."""
    _register_plugins()
    return tuple(_IMAGES)


def get_audio_image(name: str) -> AudioImage:
    """Raises UsageError for an unknown name, listing the known ones."""
    if name not in list_audio_images():
        raise UsageError(f"unknown representation '{name}': choose from {', '.join(list_audio_images())}")
    return _IMAGES[name]


@lru_cache
def _register_plugins() -> None:
    """Register plug-ins: entry points of the group `avfuse.audio_images`, and Python files in AVFUSE_AUDIO_IMAGES."""
    for point in entry_points(group=ENTRY_POINTS):
        plugin = point.load()
        if isinstance(plugin, AudioImage) and plugin.name not in _IMAGES:
            register(plugin)
    run_plugin_files(PLUGIN_FILES)


def _signed_colour_map(matrix: Array) -> str:
    low, high = np.percentile(matrix, [2, 98])
    return "coolwarm" if low < 0 < high else "magma"
