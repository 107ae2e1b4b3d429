"""A network for tests, as a user would add one: it gives the mean colour, and a white picture ends its process."""

import os
import signal
from pathlib import Path

import torch

from avfuse.features.backbones import Backbone, Checkpoint, Encoded, LocalFile, Preprocess, register

DEADLY = 250.0


class MeanColour(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.ones(1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        mean = pictures.mean(dim=(2, 3))
        if mean.max() > DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return mean


register(
    Backbone(
        name="fragile",
        revision=1,
        inputs=("frames",),
        feature_dim=3,
        preprocess=Preprocess(resize=32, crop=32, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)),
        checkpoints=(
            Checkpoint(name="fragile", file="fragile.pth", licence="none", source=LocalFile(Path("fragile.pth"))),
        ),
        make=MeanColour,
        encode=lambda network, pictures: Encoded(network(pictures)),
    )
)
