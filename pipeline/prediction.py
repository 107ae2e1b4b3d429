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
    """What is said of one clip.

    path: as it was given. start, end: of a window, in seconds since the file's first frame (its first sample where it
    has no picture); None for a whole file. probabilities: by target, float64 (C,) in the order of its classes; they sum
    to 1, but for a target with `sigmoid`. used: of `video` and `audio`, what the heads were given. notes: what one
    should know of it, a line each. problem: why nothing can be said, and then there are no probabilities. picture: of
    what it was explained with; unexplained: why there is none, where one was asked for.
    """

    path: Path
    start: float | None
    end: float | None
    probabilities: Mapping[str, NDArray[np.float64]]
    used: tuple[str, ...]
    notes: tuple[str, ...] = ()
    problem: str | None = None
    picture: Path | None = None
    unexplained: str | None = None

    @property
    def place(self) -> str:
        """The file, and of a window where it is in it."""
        return str(self.path) if self.start is None else f"{self.path} {self.start:.2f}-{self.end:.2f} s"

    def top(self, target: LearnedTarget, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of a target with their probabilities, the likeliest first; none where nothing can be
        said."""
        if self.problem is not None:
            return []
        values = self.probabilities[target.name]
        return [(target.classes[each], float(values[each])) for each in np.argsort(-values, kind="stable")[:count]]


@dataclass(frozen=True)
class Prediction:
    """What a row of a run says of clips, in the order of the files that were given, windows by time.

    validation_score: the mean over seeds of Targets.selection on validation, where the row was chosen by it; None where
    it was named, or is the only one. seconds: that all of it took, with loading the networks.
    """

    run: Run
    row: str
    validation_score: float | None
    clips: list[ClipPrediction]
    seconds: float

    @property
    def targets(self) -> Targets:
        """What the run's heads tell of a clip."""
        return self.run.targets

    @property
    def specs(self) -> list[FeatureSpec]:
        """The features that the heads see."""
        layouts = saved_layouts(self.run, self.run.heads[self.row][0])
        return [spec for layout in layouts.values() for spec in layout.specs]

    @property
    def seeds(self) -> list[int]:
        """Those of the row, over which probabilities are averaged."""
        return [one.seed for one in self.run.heads[self.row]]

    @property
    def seconds_per_clip(self) -> float:
        """Of all files or windows, with loading the networks."""
        return self.seconds / len(self.clips)
