"""A clip's sound as pictures: the six of MAiVAR (arXiv 2209.04780), and any others that are registered."""

from avfuse.features.audio_images import maivar
from avfuse.features.audio_images.registry import AudioImage, get_audio_image, list_audio_images, register
from avfuse.features.audio_images.render import render
from avfuse.features.audio_images.spectral import SpectralFeatures
from avfuse.features.audio_images.styles import DEFAULT_SIZES, STYLES, Size, Style

register(*maivar.IMAGES)

REPRESENTATIONS = tuple(image.name for image in maivar.IMAGES)
"""The names of MAiVAR's six, in the paper's order; `list_audio_images()` has all that are registered."""

__all__ = [
    "DEFAULT_SIZES",
    "REPRESENTATIONS",
    "STYLES",
    "AudioImage",
    "Size",
    "SpectralFeatures",
    "Style",
    "get_audio_image",
    "list_audio_images",
    "register",
    "render",
]
