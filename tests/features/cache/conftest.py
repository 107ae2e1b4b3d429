"""Three features that are streamed together."""

import pytest
from streamed import CLIPS, CUTS, MISSING, SHAPES, Cached, fill, make_clips, spec_of


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Cached:
    folder = tmp_path_factory.mktemp("cached")
    clips = make_clips(folder, CLIPS)
    stores = {name: fill(folder, spec_of(name), clips, CUTS[name], MISSING[name]) for name in SHAPES}
    return Cached(clips, stores)
