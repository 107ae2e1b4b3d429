"""Small data sets whose classes are told by one modality or both."""

import numpy as np
import torch

from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import TrainedHead, train_jobs

DIM = 8


QUICK = TrainingOverrides(epochs=25, lr=3e-3, hidden="32", dropout=0)


def fusion_data(classes: np.ndarray, video: np.ndarray, audio: np.ndarray) -> FusionData:
    """Frames (n, T, D), and three audio images (n, 3, D) that can be told apart by name. Of sixteen clips in a row four
    are for validation and four for testing."""
    count = len(classes)
    everyone = torch.ones(count, dtype=torch.bool)
    names = ["lite:frames"], ["lite:mfcc", "lite:chromagram", "lite:waveplot"][: audio.shape[1]]
    modalities = {}
    for name, values, features in zip(("video", "audio"), (video, audio), names, strict=True):
        shape = values.shape[1:] if name == "video" else values.shape[2:]
        layout = FeatureLayout.of(name, [spec.model_copy(update={"shape": shape}) for spec in resolve(features)])
        modalities[name] = Modality(torch.tensor(values, dtype=torch.float32), everyone, layout.specs, layout=layout)
    splits = np.array(["train", "train", "val", "test"])[np.arange(count) // 4 % 4]
    names = [f"class{number}" for number in range(classes.max() + 1)]
    return FusionData.from_arrays(modalities, classes, names, splits, np.arange(count) // 2)


def pointing(numbers: np.ndarray, tokens: int, seed: int) -> np.ndarray:
    """(n, T, D): a direction for each number, and noise."""
    generator = np.random.default_rng(seed)
    directions = 2 * generator.standard_normal((numbers.max() + 1, DIM))
    return directions[numbers][:, None] + 0.5 * generator.standard_normal((len(numbers), tokens, DIM))


def noise(clips: int, tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((clips, tokens, DIM))


def halves() -> FusionData:
    """Sound tells classes 0 and 1 from each other and from the rest, the picture 2 and 3. Of three audio images the
    first holds it, the others nothing."""
    classes = np.arange(320) % 4
    audio = np.concatenate([pointing(np.array([0, 1, 2, 2])[classes], 1, 1), noise(320, 2, 2)], axis=1)
    return fusion_data(classes, pointing(np.array([2, 2, 0, 1])[classes], 3, 3), audio)


def trained(
    data: FusionData, head: str = "mlp", seeds: int = 2, **settings: object
) -> tuple[TrainingJob, list[TrainedHead]]:
    jobs = [TrainingJob.of(head, data, seed, QUICK.updated(settings)) for seed in range(seeds)]
    return jobs[0], train_jobs(jobs)
