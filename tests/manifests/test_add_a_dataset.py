"""The data set that docs/add-a-dataset.md adds, where something is wrong; tests/docs follows the page."""

import re
from pathlib import Path

import pytest
from checkout import ROOT
from terminal import Answer, run_here


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The page's code as a file, and AVE's lists with a video for each line but one."""
    page = (ROOT / "docs" / "add-a-dataset.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "ave.py").write_text(code)
    root = tmp_path / "AVE_Dataset"
    (root / "AVE").mkdir(parents=True)
    for index, part in enumerate(("trainSet", "valSet", "testSet")):
        ids = [f"{index}{clip}_-abcdefgh" for clip in range(3)]
        lines = [f"{label}&{name}&good&0&10" for label, name in zip(("Church bell", "Bark", "Bark"), ids, strict=True)]
        if part == "trainSet":
            lines.append(f"Rain&{ids[0]}&good&3&7")  # a second event of a video
        (root / f"{part}.txt").write_text("\n".join([*lines, ""]))
        for name in ids[: 2 if part == "testSet" else 3]:
            (root / "AVE" / f"{name}.mp4").write_bytes(b"x")
    return tmp_path


def manifest(place: Path, own: str, *arguments: str) -> Answer:
    return run_here(["manifest", *arguments], place, {"AVFUSE_DATASETS": own})


def test_its_official_files_are_asked_for(place: Path) -> None:
    (place / "AVE_Dataset" / "valSet.txt").unlink()
    done = manifest(place, "ave.py", "ave", "--root", "AVE_Dataset")
    assert done.code == 2
    assert "valSet.txt not found in AVE_Dataset" in done.err
    assert "github.com/YapengTian/AVE-ECCV18" in done.err


@pytest.mark.parametrize(
    ("own", "message"), [("nowhere.py", "nowhere.py is no Python file"), ("ave.py:ave.py", "taken")]
)
def test_files_that_cannot_be_used_are_named(place: Path, own: str, message: str) -> None:
    done = manifest(place, own, "ave", "--root", "AVE_Dataset")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_code_with_the_old_names_runs_with_a_warning_that_names_the_new_ones(place: Path) -> None:
    code = (place / "ave.py").read_text()
    for old, new in (("Listing", "DatasetDescription"), ("rows", "clip_table")):
        code = code.replace(new, old)
    (place / "old.py").write_text(code)
    with pytest.warns(FutureWarning) as warnings:
        done = manifest(place, "old.py", "ave", "--root", "AVE_Dataset", "--no-probe")
    assert done.code == 0
    assert "ave: 9 clips" in done.out
    messages = " ".join(str(warning.message) for warning in warnings)
    assert "'avfuse.manifests.Listing' is 'avfuse.manifests.DatasetDescription' now" in messages
    assert "'avfuse.manifests.rows' is 'avfuse.manifests.clip_table' now" in messages
