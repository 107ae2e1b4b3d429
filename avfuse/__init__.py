"""Two-stage offline features for audio-video action recognition.

The names most people need:

    avfuse.load              cached features of a data set as one array
    avfuse.decode            frames, their times and the sound of a media file
    avfuse.render            audio images of a waveform
    avfuse.FusionClassifier  the fusion heads as a scikit-learn estimator

Everything else is in the four packages `avfuse.features`, `avfuse.manifests`, `avfuse.stages` and `avfuse.pipeline`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from avfuse.moved_modules import find_moved_modules
from avfuse.threads import let_waiting_threads_sleep

if TYPE_CHECKING:
    from avfuse.features.audio_images import render
    from avfuse.features.cache.load import load
    from avfuse.features.media import decode
    from avfuse.stages.fuse.estimator import FusionClassifier

__all__ = ["FusionClassifier", "decode", "load", "render"]

_MODULES = {
    "FusionClassifier": "avfuse.stages.fuse.estimator",
    "decode": "avfuse.features.media",
    "load": "avfuse.features.cache.load",
    "render": "avfuse.features.audio_images",
}


let_waiting_threads_sleep()
find_moved_modules()


def __getattr__(name: str) -> Any:
    """Import a public name, a package or the version on first access, so that `import avfuse` itself costs nothing."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("avfuse")
    if name in ("features", "manifests", "pipeline", "stages"):
        return import_module(f"avfuse.{name}")
    raise AttributeError(f"module 'avfuse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, "__version__"])
