"""A wheel in an environment, and a working directory, that have packages called `features` of their own."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT

from avfuse.manifests.demo import render_demo

PACKAGES = ("features", "stages", "manifests", "pipeline")
FOREIGN = "raise ImportError('this package is not part of avfuse')\n"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="a checkout holds links")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("avfuse", *PACKAGES):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--quiet", "--wheel-dir", target, source], check=True)
    (built,) = target.glob("avfuse-*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel, its requirements and foreign packages of the four names."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*pip, "--quiet", "--no-index", wheel], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for name in PACKAGES:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(FOREIGN)
    # A .pth file adds the requirements installed here, but not the checkout: nested .pth files are not followed.
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with clips of two classes, and folders of the four names."""
    folder = tmp_path_factory.mktemp("work")
    classes = ["SwingingBall", "DrumSteady"]
    render_demo(folder / "demo", groups=5, clips_per_group=1, classes=classes, n_jobs=1, progress=False)
    for path in sorted((folder / "demo").rglob("v_*.*")):
        label = path.name.split("_")[1]
        (folder / "clips" / label).mkdir(parents=True, exist_ok=True)
        path.rename(folder / "clips" / label / path.name)
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(FOREIGN)
    return folder


@pytest.fixture
def avfuse(programs: Path, work: Path) -> "Avfuse":
    return Avfuse(programs, work)


class Avfuse:
    """The installed command, in the working directory."""

    def __init__(self, programs: Path, work: Path) -> None:
        self.programs, self.work = programs, work
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        self.environment.pop("PYTHONPATH", None)

    def __call__(self, *arguments: str) -> str:
        command = [str(self.programs / "avfuse"), *arguments]
        done = subprocess.run(command, cwd=self.work, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def cluster(avfuse: Avfuse) -> Iterator[str]:
    command = [str(avfuse.programs / "avfuse"), "cluster", "--port", "0"]
    process = subprocess.Popen(command, cwd=avfuse.work, env=avfuse.environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1]
    process.send_signal(signal.SIGINT)
    process.wait()
    process.stdout.close()


def test_the_environment_imports_the_wheel_and_not_the_checkout(avfuse: Avfuse) -> None:
    code = "import avfuse.features, sys; print(avfuse.features.__file__, 'features' in sys.modules)"
    python = [str(avfuse.programs / "python"), "-c", code]
    printed = subprocess.run(python, cwd=avfuse.work, env=avfuse.environment, capture_output=True, text=True).stdout
    assert printed.split()[0].startswith(str(avfuse.programs.parent))
    assert printed.split()[1] == "False"


def test_a_wheel_extracts_fuses_and_predicts_beside_foreign_packages(avfuse: Avfuse) -> None:
    shown = avfuse(
        "extract", "--dataset", "folder", "--root", "clips", "--workers", "2",
        "--features", "lite:frames,lite:mfcc", "--frames", "uniform:2",
    )  # fmt: skip
    assert "10 clips" in shown
    avfuse(
        "fuse", "--dataset", "clips", "--fusion", "mlp", "--seeds", "1", "--epochs", "1",
        "--video", "lite:frames", "--audio", "lite:mfcc",
    )  # fmt: skip
    assert (avfuse.work / "runs" / "clips" / "mlp" / "report.html").is_file()
    clip = next((avfuse.work / "clips").rglob("v_*.*"))
    assert clip.name in avfuse("predict", str(clip), "--run", "runs/clips/mlp", "--workers", "1")


def test_dask_workers_find_the_wheel_as_well(avfuse: Avfuse, cluster: str) -> None:
    shown = avfuse(
        "extract", "--dataset", "folder", "--root", "clips", "--name", "again", "--cache", "other",
        "--features", "lite:mfcc", "--engine", "dask", "--scheduler", cluster,
    )  # fmt: skip
    assert "10 clips" in shown
