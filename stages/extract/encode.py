"""Batches of pixels through a loaded backbone."""

import numpy as np
import torch
from numpy.typing import NDArray

from features.backbones import Encoder
from features.spec import Preprocess

CPU_BATCH_IMAGES, GPU_BATCH_IMAGES = 8, 128
"""On a CPU small batches are the faster ones: their activations stay in the cache."""


class Batcher:
    """Gathers images from any number of clips into batches of one fixed size.

    Each image comes with the array (D,) that its vector is written to. The last batch is filled with repeats, so that
    every forward pass has the same shape and an image's feature does not depend on how many others there were.
    """

    def __init__(self, encoder: Encoder, preprocess: Preprocess, batch_images: int) -> None:
        self._encoder = encoder
        self._preprocess = preprocess
        self._images = np.empty((batch_images, preprocess.crop, preprocess.crop, 3), dtype=np.uint8)
        self._targets: list[NDArray[np.float32]] = []

    def add(self, image: NDArray[np.uint8], target: NDArray[np.float32]) -> None:
        self._images[len(self._targets)] = image
        self._targets.append(target)
        if len(self._targets) == len(self._images):
            self.flush()

    def flush(self) -> None:
        if not self._targets:
            return
        self._images[len(self._targets) :] = self._images[0]
        vectors = self._encoder(torch.from_numpy(self._images), self._preprocess).float().cpu().numpy()
        for target, vector in zip(self._targets, vectors, strict=False):
            target[...] = vector
        self._targets.clear()
