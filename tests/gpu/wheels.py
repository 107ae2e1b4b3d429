"""Wheels of all that avfuse's checks need beside PyTorch, for a machine that has PyTorch and no package index.

    python tests/gpu/wheels.py FOLDER PYTHON_VERSION [WITHOUT]

PyTorch and what belongs to it are always left out. WITHOUT: names of further packages, by commas, or a file that lists
what the other machine has, a line each (`pip freeze`).
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS_NEED = ["pytest", "pytest-timeout"]
WITH_TORCH = re.compile(r"torch|torchvision|torchaudio|triton|(nvidia|cuda)-.*")
GLIBC = range(17, 40)
"""2.17 is the oldest that wheels are made for; the other machine is taken to be newer than the newest asked for."""


def main() -> None:
    folder, version = Path(sys.argv[1]), sys.argv[2]
    without = named(sys.argv[3]) if len(sys.argv) > 3 else set()
    chosen = [
        f"{name}=={found}"
        for name, found in resolved(version)
        if not WITH_TORCH.fullmatch(name) and name not in without
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pip("download", "--quiet", "--no-deps", *other_machine(version), "--dest", str(folder), *chosen)
    sizes = sorted(((wheel.stat().st_size, wheel.name) for wheel in folder.glob("*.whl")), reverse=True)
    for size, name in sizes[:12]:
        print(f"{size / 2**20:7.1f} MiB  {name}")
    print(f"{sum(size for size, _ in sizes) / 2**20:7.1f} MiB  {len(sizes)} wheels in {folder}")


def named(text: str) -> set[str]:
    """Names as registries compare them, without versions."""
    lines = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    return {plain(re.split(r"[\s=<>@\[;]", line.strip())[0]) for line in lines}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved(version: str) -> Iterable[tuple[str, str]]:
    """Name and version of all that fits together, PyTorch among it."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--quiet", "--dry-run", "--ignore-installed", "--target", folder, "--report", str(report)]
        pip("install", *options, *other_machine(version), *needs, *TESTS_NEED)
        for each in json.loads(report.read_text())["install"]:
            yield plain(each["metadata"]["name"]), each["metadata"]["version"]


def other_machine(version: str) -> list[str]:
    """Linux on this machine's kind of processor."""
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC]
    tags += [f"manylinux{old}_{machine}" for old in ("2014", "2010", "1")] + [f"linux_{machine}"]
    platforms = [option for tag in tags for option in ("--platform", tag)]
    return ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", *platforms]


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


if __name__ == "__main__":
    main()
