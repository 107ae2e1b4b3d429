"""Wheels of all that avfuse's checks need beside PyTorch, for a machine that has PyTorch and no package index.

    python tests/gpu/wheels.py FOLDER PYTHON_VERSION [WITHOUT]

They are those of the lock (requirements/core.txt), without PyTorch and what belongs to it. WITHOUT: names of further
packages, by commas, or a file that lists what the other machine has, a line each (`pip freeze`).
"""

import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import Marker

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
TESTS_NEED = {"iniconfig", "pluggy", "pytest", "pytest-timeout"}
PIN = re.compile(r"^([\w.-]+)(==\S+)(?: ; (.*?))?(?: \\)?$", re.MULTILINE)
GLIBC = range(17, 40)
"""2.17 is the oldest that wheels are made for; the other machine is taken to be newer than the newest asked for."""


def main() -> None:
    folder, version = Path(sys.argv[1]), sys.argv[2]
    without = named(sys.argv[3]) if len(sys.argv) > 3 else set()
    chosen = [name + pin for name, pin in locked(version) if name not in without]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, *other_machine(version), *chosen], check=True)
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


def locked(version: str) -> Iterator[tuple[str, str]]:
    """Names and pins of the lock that hold on the other machine."""
    there = {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": platform.machine(),
    }
    for file in ("core.txt", "test.txt"):
        for name, pin, marker in PIN.findall((REQUIREMENTS / file).read_text()):
            is_needed = file == "core.txt" or name in TESTS_NEED
            if is_needed and (not marker or Marker(marker).evaluate(there)):
                yield plain(name), pin


def other_machine(version: str) -> list[str]:
    """Linux on this machine's kind of processor."""
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC]
    tags += [f"manylinux{old}_{machine}" for old in ("2014", "2010", "1")] + [f"linux_{machine}"]
    platforms = [option for tag in tags for option in ("--platform", tag)]
    return ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", *platforms]


if __name__ == "__main__":
    main()
