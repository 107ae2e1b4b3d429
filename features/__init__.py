"""WHAT is extracted: media reading, audio images, frozen backbones, and the cache that keeps their features.

This layer knows a clip as (path, start, end) and nothing of labels. `avfuse.load` is the door for people who only
want the numbers.
"""

if __name__ == "features":  # imported by its old name
    from avfuse.old_names import redirect

    redirect(__name__)

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avfuse.features.cache.load import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` on first use: decode workers import this package and need neither h5py nor pandas."""
    if name == "load":
        from avfuse.features.cache.load import load

        return load
    raise AttributeError(f"module 'avfuse.features' has no attribute '{name}'")
