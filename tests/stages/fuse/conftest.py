"""Made-up features with known structure."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.data.dataset import FusionData, Modality

CLASSES, FRAMES, DIM = 6, 5, 16
QUARTERS = np.array(["train", "train", "val", "test"])


def make_data(clips_per_class: int = 60, noise: float = 0.7, seed: int = 0, missing: float = 0.05) -> FusionData:
    """Six classes = two that only the picture tells apart times three that only the sound does."""
    generator = np.random.default_rng(seed)
    targets = np.repeat(np.arange(CLASSES), clips_per_class)
    seen, heard = generator.standard_normal((2, DIM)), generator.standard_normal((3, DIM))
    count = len(targets)
    video = seen[targets % 2][:, None] + noise * generator.standard_normal((count, FRAMES, DIM))
    audio = heard[targets // 2][:, None] + noise * generator.standard_normal((count, 2, DIM))
    modalities = make_modalities(generator, video, audio, missing)
    splits = QUARTERS[generator.permutation(count) % 4]
    names = [f"class{number}" for number in range(CLASSES)]
    return FusionData.from_arrays(modalities, targets, names, splits, [f"g{number // 2}" for number in range(count)])


def make_modalities(
    generator: np.random.Generator, video: np.ndarray, audio: np.ndarray, missing: float
) -> Mapping[str, Modality]:
    """A share of the clips lacks each modality."""
    specs = resolve(["lite:frames", "lite:mfcc", "lite:chromagram"])
    modalities = {}
    for name, values, its_specs in (("video", video, specs[:1]), ("audio", audio, specs[1:])):
        present = generator.random(len(values)) >= missing
        values[~present] = np.nan
        modalities[name] = Modality(torch.tensor(values, dtype=torch.float32), torch.tensor(present), tuple(its_specs))
    return modalities


@pytest.fixture(name="make_data", scope="session")
def make_data_fixture() -> Callable[..., FusionData]:
    return make_data
