"""The notebook of the documentation runs on what `make demo` leaves, here a small made-up data set of that name."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from nbclient import NotebookClient

from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.feature_names import resolve
from avfuse.manifests import Manifest, save_manifest

NOTEBOOK = ROOT / "docs" / "ablation.ipynb"
CLIPS, DIM = 240, 8


def save_demo(cache: Path) -> None:
    """Four classes, of which two differ in what is seen, and two in what is heard."""
    generator = np.random.default_rng(0)
    classes = np.arange(CLIPS) % 4
    table = pd.DataFrame(
        {
            "clip_id": [f"clip{number:03}" for number in range(CLIPS)],
            "path": [f"{number}.avi" for number in range(CLIPS)],
            "start": np.nan,
            "end": np.nan,
            "label": np.array(["ball", "cube", "drum", "flute"])[classes],
            "split": np.where(np.arange(CLIPS) // 4 % 3 == 0, "test", "train"),
            "group": [f"g{number // 4}" for number in range(CLIPS)],
        }
    )
    manifest = Manifest("demo", "demo", cache, table)
    save_manifest(cache, manifest)
    seen, heard = np.array([0, 1, 2, 2])[classes], np.array([2, 2, 0, 1])[classes]
    for spec in resolve(["lite:frames", "lite:images"]):
        shape, kinds = ((25, DIM), seen) if spec.name == "lite:frames" else ((DIM,), heard)
        rows = 4 * generator.standard_normal((3, *shape))[kinds] + generator.standard_normal((CLIPS, *shape))
        done = [(clip, MISSING) for clip in manifest.clips()]
        result = ChunkResult(
            spec.model_copy(update={"shape": shape}), done=done, data=list(rows.astype(np.float32)), no_audio=[]
        )
        FeatureStore(cache, "demo", result.spec).commit(result)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    checkout = tmp_path_factory.mktemp("checkout")
    save_demo(checkout / "cache")
    (checkout / "docs").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(checkout / "ipython"))
        patch.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(
            notebook, startup_timeout=600, resources={"metadata": {"path": str(checkout / "docs")}}
        ).execute()
    assert (checkout / "runs" / "demo" / "notebook" / "results.csv").is_file()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a warning in the notebook"
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert not [cell for cell in cells if cell.outputs or cell.execution_count is not None]


@pytest.mark.slow
def test_it_finds_that_hearing_helps_where_classes_are_heard(executed: nbformat.NotebookNode) -> None:
    text = printed(executed)
    assert "lite:frames      (240, 25, 8) float16" in text
    (line,) = [line for line in text.splitlines() if line.startswith("mlp - video:")]
    assert float(line.split()[3].rstrip("%,")) > 10
    assert float(line.split()[-1]) < 0.05


@pytest.mark.slow
def test_it_shows_a_plot_and_the_classes_that_gain(executed: nbformat.NotebookNode) -> None:
    shown = [output.data for cell in executed.cells for output in cell.get("outputs", []) if "data" in output]
    assert [data for data in shown if "image/png" in data]
    tables = [data["text/plain"] for data in shown if "text/html" in data]
    assert any("options" in table or "head" in table for table in tables)
    gains = next(table for table in tables if "difference" in table)
    assert gains.splitlines()[1].split()[1] in ("drum", "flute")
