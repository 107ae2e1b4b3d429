"""The site of the documentation is built without a warning, and holds what readers look for."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

pytest.importorskip("sphinx", reason="the site is built with the extra `docs`: pip install -e '.[docs]'")
pytest.importorskip("myst_nb", reason="the site is built with the extra `docs`: pip install -e '.[docs]'")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the pages without a cache beside it, so that the notebook is shown and not run."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "docs", checkout / "docs", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for page in ("CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / page, checkout)
    built = checkout / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-W", "--keep-going", checkout / "docs", built]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return built


def test_every_page_is_in_the_site(site: Path) -> None:
    sources = [
        path.relative_to(ROOT / "docs")
        for pattern in ("*.md", "*/*.md", "*.ipynb")
        for path in (ROOT / "docs").glob(pattern)
    ]
    pages = {path.with_suffix(".html") for path in sources if path.parts[0] != "_build"}
    assert pages
    assert not [page for page in pages if not (site / page).is_file()]


def test_the_contents_lead_to_every_page(site: Path) -> None:
    contents = (site / "index.html").read_text()
    pages = [path.relative_to(site).as_posix() for path in site.rglob("*.html")]
    built_in = {"index.html", "search.html", "genindex.html", "py-modindex.html"}
    assert not [page for page in pages if page not in built_in and f'href="{page}' not in contents]


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("media", "avfuse.features.media.decode"),
        ("audio-images", "avfuse.features.audio_images.render"),
        ("features", "avfuse.load"),
        ("features", "avfuse.features.cache.FeatureStore"),
        ("features", "avfuse.features.cache.streaming.FeatureStream"),
        ("manifests", "avfuse.manifests.load_manifest"),
        ("fusion", "avfuse.stages.fuse.estimator.FusionClassifier"),
        ("heads", "avfuse.stages.fuse.heads.register_head"),
        ("results", "avfuse.stages.fuse.analysis.shapley.contribution"),
        ("pipeline", "avfuse.pipeline.predict.predict"),
        ("pipeline", "avfuse.pipeline.report.comparison.compare"),
    ],
)
def test_the_api_names_its_public_doors_with_their_types(site: Path, page: str, name: str) -> None:
    text = (site / "api" / f"{page}.html").read_text()
    assert f'id="{name}"' in text
    signature = text.partition(f'id="{name}"')[2].partition("</dt>")[0]
    assert "Path" in signature or ":" in re.sub(r"<[^>]*>", "", signature)


def test_arrays_are_written_as_in_the_code(site: Path) -> None:
    text = "".join(re.sub(r"<[^>]*>", "", path.read_text()) for path in (site / "api").glob("*.html"))
    assert "NDArray[float32]" in text
    assert "ndarray[tuple[" not in text
