"""The head that docs/add-a-head.md adds, by the code that is printed there."""

import re
from pathlib import Path

import pandas as pd
import pytest
from checkout import ROOT
from made_up_sets import sounds
from terminal import Answer, run_here


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The page's code as a file, and a made-up data set whose features are cached."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-head.md").read_text(), re.DOTALL)
    (tmp_path / "gated.py").write_text(code)
    sounds(tmp_path / "cache", several_in_train=False)
    return tmp_path


def fuse(place: Path, own: str, *arguments: str) -> Answer:
    command = ["fuse", "--dataset", "sounds", "--video", "imported:picture", "--audio", "imported:sound"]
    return run_here([*command, "--seeds", "2", *arguments], place, {"AVFUSE_HEADS": own})


@pytest.mark.slow
def test_the_head_on_the_page_learns(place: Path) -> None:
    done = fuse(place, "gated.py", "--fusion", "video,gated", "--sweep", "width=8,32", "--epochs", "15")
    assert done.code == 0, done.err
    assert "validation prefers width=" in done.out
    results = pd.read_csv(place / "runs" / "sounds" / "video+gated" / "results.csv")
    assert sorted(results["head"].unique()) == ["gated", "video"]
    scores = results.groupby("head").mean(numeric_only=True)["hit1"]
    assert scores["gated"] > 0.5
    assert "a gate weighs picture against sound" in (place / "runs/sounds/video+gated/report.html").read_text()


@pytest.mark.parametrize(
    ("own", "arguments", "message"),
    [
        ("nowhere.py", ("--fusion", "mlp"), "AVFUSE_HEADS: nowhere.py is no Python file"),
        ("gated.py:gated.py", ("--fusion", "mlp"), "a head cannot be called 'gated': the name is taken"),
        ("gated.py", ("--fusion", "gated", "--set", "width=0"), "width=0: input should be greater than or equal to 1"),
        ("", ("--fusion", "gated"), "unknown fusion 'gated'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(place: Path, own: str, arguments: tuple[str, ...], message: str) -> None:
    done = fuse(place, own, *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
