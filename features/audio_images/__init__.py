"""A clip's sound as six pictures (MAiVAR, arXiv 2209.04780)."""

from avfuse.features.audio_images.render import REPRESENTATION_REVISION, REPRESENTATIONS, render
from avfuse.features.audio_images.styles import DEFAULT_SIZES, STYLES, Size, Style

__all__ = ["DEFAULT_SIZES", "REPRESENTATIONS", "REPRESENTATION_REVISION", "STYLES", "Size", "Style", "render"]
