"""The page on the architecture names every room, and files that exist."""

import re

import pytest
from checkout import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("features", "manifests", "stages", "pipeline")
ROOMS = sorted(str(init.parent.relative_to(ROOT)) for name in PACKAGES for init in (ROOT / name).rglob("__init__.py"))


def files_named(text: str) -> list[str]:
    return re.findall(r"`([\w/]+\.(?:py|j2))`", text)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_named(room: str) -> None:
    name = room.rpartition("/")[2]
    assert re.search(rf"`([\w/]+/)?{name}/`|\*\*{name}\*\*", PAGE)


def test_files_of_a_room_are_in_it() -> None:
    rows = re.findall(r"^\| (`[^|]*) \| (.*) \|$", PAGE, re.MULTILINE)
    lost = []
    for rooms, text in rows:
        folders = [ROOT / room.removesuffix("*.py") for room in re.findall(r"`([\w/]+/(?:\*\.py)?)`", rooms)]
        folders += [folder / inner for folder in folders for inner in re.findall(r"`(\w+)/`", text)]
        lost += [name for name in files_named(text) if folders and not any((f / name).is_file() for f in folders)]
    assert not lost


def test_files_of_the_walks_exist() -> None:
    steps = re.findall(r"^(\d+)\. `([\w/]+\.py)`", PAGE, re.MULTILINE)
    assert not [path for _, path in steps if not (ROOT / path).is_file()]
    assert [int(number) for number, _ in steps] == [*range(1, 16), *range(1, 19)]


def test_files_where_something_is_changed_exist() -> None:
    table = re.findall(r"^\| .*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    named = [
        name for row in table for name in re.findall(r"`((?:features|manifests|stages|pipeline|tests)/[\w/.]*)`", row)
    ]
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
