"""Made-up data sets of real features, to count what these cost."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from avfuse.features.backbones import WeightsChoice
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec, ImportedInput
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides

IMPORTED = FeatureSpec(
    name="imported:i3d",
    input=ImportedInput(modality="video", description="I3D", reduce=None, shape=(8, 1024)),
    model=None,
    output="pooled",
    shape=(8, 1024),
)


def specs(*names: str, sampling: str | None = None) -> list[FeatureSpec]:
    return resolve(names, sampling=sampling, weights=WeightsChoice("random"))


def of_features(data: FusionData, **features: Sequence[FeatureSpec]) -> FusionData:
    """The same clips with numbers that stand for these features."""
    generator = np.random.default_rng(0)
    modalities = {}
    for name, its in features.items():
        layout = FeatureLayout.of(name, its)
        rows = {spec.key: generator.standard_normal((len(data.table), *spec.shape)) for spec in its}
        modalities[name] = Modality.of(layout, rows, np.ones(len(data.table), dtype=bool), "cpu")
    return replace(data, modalities={**data.modalities, **modalities})


def job(data: FusionData, head: str, **settings: object) -> TrainingJob:
    return TrainingJob.of(head, data, 0, TrainingOverrides(**settings))
