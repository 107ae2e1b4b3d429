"""A data set's features, truth and masks as tensors. Knows nothing of heads."""

from typing import TYPE_CHECKING

from avfuse.moved_modules import renamed

_DATASET = (
    "FILTER_BANK",
    "FusionData",
    "UNLABELLED",
    "VALIDATION_FRACTION",
    "bytes_in_memory",
    "load_data",
    "usable_clips",
)

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {name: f"{__name__}.dataset.{name}" for name in _DATASET})
