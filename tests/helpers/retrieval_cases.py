"""Made-up embeddings, and their measures by name."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from avfuse.stages.fuse.analysis.embeddings import (
    Embeddings,
)
from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY


def placed(audio: Sequence[int], video: Sequence[int], **lacking: Sequence[int]) -> Embeddings:
    """Clips on corners of a cube, by number; `audio` and `video` name clips that lack the modality."""
    corners = np.eye(6, dtype=np.float32)
    has = {name: np.ones(len(audio), dtype=bool) for name in OTHER_MODALITY}
    for name, clips in lacking.items():
        has[name.removeprefix("no_")][list(clips)] = False
    return Embeddings({"audio": corners[list(audio)], "video": corners[list(video)]}, has)


def scattered(clips: int, seed: int) -> Embeddings:
    audio, video = F.normalize(torch.randn(2, clips, 8, generator=torch.Generator().manual_seed(seed)), dim=2)
    everyone = np.ones(clips, dtype=bool)
    return Embeddings({"audio": audio.numpy(), "video": video.numpy()}, {"audio": everyone, "video": everyone})


def alone(clips: int) -> np.ndarray:
    """A group for each clip."""
    return np.arange(clips).astype(object)


def by_name(measures: pd.DataFrame, column: str = "value") -> Mapping[str, float]:
    return dict(zip(measures["measure"], measures[column], strict=True))
