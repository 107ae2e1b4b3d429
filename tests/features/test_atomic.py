"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from avfuse.features.atomic import atomic_write


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_at_the_end(tmp_path: Path, durable: bool) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with atomic_write(target, durable=durable) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(IsADirectoryError), atomic_write(target) as temporary:
        tmp_path.write_text(temporary.write_text("half") * "x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_the_temporary_name_is_hidden_beside_the_target(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "clip.avi", suffix=".partial.avi") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".partial.avi")
        temporary.touch()
