"""Made-up features in the shapes of MAiVAR's on UCF101."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from fuse_settings import CLASSES, CLIPS, CPU, FRAME_DIM, FRAMES, IMAGE_DIM, IMAGES, TEST_CLIPS
from torch import Tensor

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality


@cache
def made_up(device: torch.device = CPU) -> list[FusionData]:
    """A data set for each audio image over the same frames; training clips come first, and none is for validation. What
    tells classes apart is small beside what differs from clip to clip."""
    generator = torch.Generator().manual_seed(0)
    count = CLIPS + TEST_CLIPS
    labels = torch.randint(CLASSES, (count,), generator=generator)
    video, audio = (
        scattered(labels, length, dim, generator).to(device)
        for length, dim in ((FRAMES, FRAME_DIM), (IMAGES, IMAGE_DIM))
    )
    all_have = torch.ones(count, dtype=torch.bool, device=device)
    frames = Modality(video, all_have)
    return [with_image(frames, Modality(image[:, None], all_have), labels.to(device)) for image in audio.unbind(1)]


def scattered(labels: Tensor, length: int, dim: int, generator: torch.Generator) -> Tensor:
    """Tokens (n, length, dim): a point per class, one per clip, and noise."""
    tokens = torch.randn(len(labels), length, dim, generator=generator)
    tokens += torch.randn(len(labels), 1, dim, generator=generator)
    tokens += 0.3 * torch.randn(CLASSES, 1, dim, generator=generator)[labels]
    return tokens


def with_image(video: Modality, audio: Modality, labels: Tensor) -> FusionData:
    names, count = [f"class {number}" for number in range(CLASSES)], len(labels)
    splits = np.where(np.arange(count) < CLIPS, "train", "test")
    modalities = {"video": video, "audio": audio}
    return FusionData.from_arrays(modalities, labels.cpu().numpy(), names, splits, np.arange(count) // 8, labels.device)


def first(every: Sequence[FusionData], clips: int) -> list[FusionData]:
    """Fewer training clips, and none for test: views of the same tensors."""
    shorter = []
    for data in every:
        modalities = {
            name: replace(modality, tokens=modality.tokens[:clips], present=modality.present[:clips])
            for name, modality in data.modalities.items()
            if isinstance(modality, Modality)
        }
        truth = tuple(each[:clips] for each in data.truth)
        train, test, table = data.train[:clips], data.test[:0], data.table[:clips]
        shorter.append(replace(data, modalities=modalities, truth=truth, train=train, test=test, table=table))
    return shorter
