"""A clip's sound as six pictures (MAiVAR, arXiv 2209.04780)."""

from features.audio_images.render import REPRESENTATION_REVISION, REPRESENTATIONS, SIZE, render

__all__ = ["REPRESENTATIONS", "REPRESENTATION_REVISION", "SIZE", "render"]
