"""Conversion of decoded clips to the arrays that backbones take. Imports no torch."""

from typing import TYPE_CHECKING

from avfuse.moved_modules import renamed

if not TYPE_CHECKING:
    _NAMES = {name: name for name in ("NoAudio", "Outcome", "SharedFile")}
    _NAMES |= {"Prepared": "PreparedInputs", "dtype_of": "input_dtype"}
    __getattr__ = renamed(__name__, {old: f"{__name__}.prepare.{new}" for old, new in _NAMES.items()})
