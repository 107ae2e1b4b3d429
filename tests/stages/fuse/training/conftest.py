"""Made-up clips with audio tokens in a grid, for tests of training with auxiliary losses."""

import pytest
from grid_data import make_grid_data

from avfuse.stages.fuse.data.dataset import FusionData


@pytest.fixture(name="grid_data", scope="session")
def grid_data_fixture() -> FusionData:
    return make_grid_data()


@pytest.fixture(name="lacking", scope="session")
def lacking_fixture() -> FusionData:
    """Clips that may lack a modality."""
    return make_grid_data(missing=0.25, seed=1)


@pytest.fixture(name="learnable", scope="session")
def learnable_fixture() -> FusionData:
    """Enough clips to learn something that holds for others."""
    return make_grid_data(clips=200, seed=2)
