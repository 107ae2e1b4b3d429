"""From decoded clips to the arrays that backbones take. Imports no torch."""

from typing import TYPE_CHECKING

from avfuse.moved_modules import renamed

if not TYPE_CHECKING:
    _NAMES = ("NoAudio", "Outcome", "Prepared", "SharedFile", "dtype_of")
    __getattr__ = renamed(__name__, {name: f"{__name__}.prepare.{name}" for name in _NAMES})
