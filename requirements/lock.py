"""Resolve the locked requirements anew: `make lock`.

One resolution covers every extra, Python version and platform, so that what is installed for one target is what is
installed for all. It is written as files that pip installs by themselves, each package in exactly one of them:

    torch.txt                                  the PyTorch pair and its CUDA libraries
    core.txt                                   what else avfuse needs
    test.txt, lint.txt, docs.txt, cluster.txt  what an extra adds

`pair.in` names the PyTorch pair. Afterwards what users install is resolved for each platform by itself from wheels
alone, to see that none of them has to compile anything.
"""

import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

FOLDER = Path(__file__).parent
PROJECT = FOLDER.parent / "pyproject.toml"
PAIR = FOLDER / "pair.in"
EXTRAS = ("test", "lint", "docs", "cluster")
PYTHONS = ("3.11", "3.12", "3.13")
MACOS = "14.0"
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
CUDA = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)$")

Pins = dict[str, str]
"""A package's name -> its pinned version with markers and hashes, as lines of a requirements file. A package that has
several versions, by marker, has all of them in one text."""


def resolve(*arguments: str) -> str:
    """Run uv's resolver over the project and return the requirements it prints."""
    command = ["uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", *arguments, str(PROJECT)]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if result.returncode:
        sys.exit(f"no such set of versions: {' '.join(command)}")
    return result.stdout


def pins(requirements: str) -> Pins:
    """Split a requirements file into its packages."""
    packages: Pins = {}
    for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", requirements, re.MULTILINE):
        name = re.split(r"[=<>!~\[; ]", block, maxsplit=1)[0]
        packages[name] = packages.get(name, "") + block + "\n"
    return packages


def universal(*arguments: str) -> Pins:
    """Resolve for every platform and Python at once, with one version of a package wherever one will do."""
    one_for_all = ("--universal", "--fork-strategy", "fewest", "--python-version", PYTHONS[0], "--generate-hashes")
    return pins(resolve(*one_for_all, *arguments))


def write(name: str, packages: Pins) -> None:
    """Write one file of the lock."""
    lines = "".join(text for _, text in sorted(packages.items()))
    (FOLDER / f"{name}.txt").write_text(f"# Made by `make lock` on {date.today():%Y-%m-%d}.\n{lines}")


def check_wheels(lock: Path) -> None:
    """Resolve each platform and Python from wheels alone, held to the lock's versions."""
    for python in PYTHONS:
        for platform in PLATFORMS:
            resolve(
                *("--python-version", python, "--python-platform", platform, "--only-binary", ":all:"),
                *("--extra", "cluster", "--constraints", str(lock)),
            )
            print(f"Python {python} on {platform}: all from wheels")


def main() -> None:
    """Resolve, split, write and check."""
    everything = universal("--all-extras", "--constraints", str(PAIR))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as lock:
        lock.write("".join(everything.values()))
        lock.flush()
        core = universal("--constraints", lock.name)
        write("torch", {name: text for name, text in core.items() if CUDA.match(name)})
        write("core", {name: text for name, text in core.items() if not CUDA.match(name)})
        for extra in EXTRAS:
            packages = universal("--extra", extra, "--constraints", lock.name)
            write(extra, {name: text for name, text in packages.items() if name not in core})
        check_wheels(Path(lock.name))
    print(f"{len(everything)} packages locked, {len(core)} of them without extras")


if __name__ == "__main__":
    main()
