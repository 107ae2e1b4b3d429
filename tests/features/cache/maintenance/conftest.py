"""A small feature whose rows are made up, and a shard of it with every outcome."""

from pathlib import Path

import pytest
from cached import make_clips, result_of

from avfuse.features.cache import FeatureStore
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec


@pytest.fixture
def spec() -> FeatureSpec:
    return resolve(["lite:mfcc"])[0].model_copy(update={"shape": (40,)})


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "media")


@pytest.fixture
def store(tmp_path: Path, spec: FeatureSpec) -> FeatureStore:
    return FeatureStore(tmp_path, "set", spec)


@pytest.fixture
def shard(store: FeatureStore, clips: list[Clip]) -> Path:
    """The shard of three clips with the feature, one without audio, and failed ones."""
    return store.commit(result_of(store.spec, clips[:3], clips[3:4], clips[4:]))
