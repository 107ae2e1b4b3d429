"""Predicted classes of media files: records for `predict` and everything that prints or draws them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avfuse.features.spec import FeatureSpec
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.runs.restore import saved_layouts
from avfuse.stages.fuse.runs.run_folder import Run

MODALITY_WORDS = {"video": "picture", "audio": "sound"}
"""Modalities in messages and tables."""


@dataclass(frozen=True)
class ClipPrediction:
    """Predicted classes of one media file or window."""

    path: Path  # as the caller named it
    start: float | None  # seconds since the file's first frame, or first sample without picture; None: a whole file
    end: float | None
    probabilities: Mapping[str, NDArray[np.float64]]  # by target, (C,); they sum to 1 unless the target has `sigmoid`
    used: tuple[str, ...]  # of `video` and `audio`, the modalities that the heads were given
    notes: tuple[str, ...] = ()  # caveats, a line each
    problem: str | None = None  # why the clip could not be predicted; `probabilities` is empty then
    picture: Path | None = None  # the PNG file that explains the prediction
    unexplained: str | None = None  # why it could not be explained

    @property
    def place(self) -> str:
        """The path, and the interval of a window."""
        return str(self.path) if self.start is None else f"{self.path} {self.start:.2f}-{self.end:.2f} s"

    def top(self, target: LearnedTarget, count: int = 5) -> list[tuple[str, float]]:
        """The `count` likeliest classes of a target with their probabilities, in descending order; none for a clip
        that could not be predicted."""
        if self.problem is not None:
            return []
        values = self.probabilities[target.name]
        return [(target.classes[index], float(values[index])) for index in np.argsort(-values, kind="stable")[:count]]


@dataclass(frozen=True)
class Prediction:
    """Predictions of media files by one row of a run."""

    run: Run
    row: str
    validation_score: float | None  # mean over seeds of `Targets.selection` if the row was chosen by it, else None
    clips: list[ClipPrediction]  # in the order of the files, windows by time
    seconds: float  # wall time, loading of networks included

    @property
    def targets(self) -> Targets:
        """The run's targets and their classes."""
        return self.run.targets

    @property
    def specs(self) -> list[FeatureSpec]:
        """Features that the row's heads take."""
        layouts = saved_layouts(self.run, self.run.heads[self.row][0])
        return [spec for layout in layouts.values() for spec in layout.specs]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the row; probabilities are averaged over them."""
        return [result.seed for result in self.run.heads[self.row]]

    @property
    def seconds_per_clip(self) -> float:
        """Mean wall time per file or window, loading of networks included."""
        return self.seconds / len(self.clips)
