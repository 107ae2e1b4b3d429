"""Indices of their own for every test."""

from pathlib import Path

import pytest

from avfuse.features.archives import indexing, seek_points


@pytest.fixture(autouse=True)
def index_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for indices, seek points close together, and no index remembered."""
    monkeypatch.setenv("AVFUSE_ARCHIVES", str(tmp_path / "indices"))
    monkeypatch.setattr(seek_points, "SPACING", 100_000)
    monkeypatch.setattr(indexing, "_recent_indices", {})
    return tmp_path / "indices"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every archive that is indexed."""
    count: list[int] = []
    build = indexing._build

    def counted(*arguments: object) -> object:
        count.append(1)
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "_build", counted)
    return count
