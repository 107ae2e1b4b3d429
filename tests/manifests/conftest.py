"""Small copies of the papers' data sets, and processes in which probing goes wrong."""

import importlib
import sys
from pathlib import Path

import official_trees
import pytest

from avfuse.manifests import media_probes


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small copies of the papers' data sets in their own layouts, which tests do not change."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("ucf101", "kinetics_sounds", "vggsound", "epic_kitchens_100"):
        (folder / name).mkdir()
        getattr(official_trees, name)(folder / name)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(count: int) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(media_probes, "_process_pool", refuse)


TROUBLE = """
import ctypes, os, signal, time
from pathlib import Path
from avfuse.features.errors import ClipError
from avfuse.features.media import probe as real_probe

def probe(path):
    with open(os.environ["AVFUSE_OPENED"], "a") as opened:
        opened.write(f"{path.name}\\n")
    trouble = path.name.split("_")[0]
    if trouble == "hangs":
        ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter lock: no Python code runs meanwhile
    if trouble == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if trouble == "refused":
        raise ClipError("open", "not a readable media file (Input/output error)")
    if trouble == "odd":
        raise RuntimeError("two\\nlines")
    if trouble == "waits" and Path(os.environ["AVFUSE_OPENED"]).with_name("hold").exists():
        time.sleep(600)
    return real_probe(path)
"""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes, in which a file now does what its name says, note what they open."""
    (tmp_path / "avfuse_probe_trouble.py").write_text(TROUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AVFUSE_OPENED", str(tmp_path / "opened.txt"))
    monkeypatch.delitem(sys.modules, "avfuse_probe_trouble", raising=False)
    monkeypatch.setattr(media_probes, "probe", importlib.import_module("avfuse_probe_trouble").probe)
    return tmp_path / "opened.txt"
