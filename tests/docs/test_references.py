"""What pages refer to is there: other pages and their headings, options of commands, variables of make."""

import re
import subprocess
from collections.abc import Iterator

import click
import pytest
from documented import ROOT, anchors, links, pages, words_in_code
from documented_shell import MAKEFILE, VARIABLES

from avfuse.pipeline.cli.main import avfuse

EVERY_PAGE = [*pages(), "CHANGELOG.md"]

OTHERS_OPTIONS = {
    "--import-mode": "pytest",
    "--resources": "dask worker",
    "--nthreads": "dask worker",
    "--no-deps": "pip",
    "--require-hashes": "pip",
    "--target": "pip",
    "--shm-size": "docker run",
}
"""Options of programs that are not avfuse."""

NO_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "read by CUDA",
    "OMP_WAIT_POLICY": "read by OpenMP",
    "GOMP_SPINCOUNT": "read by GNU's OpenMP",
    "KMP_BLOCKTIME": "read by LLVM's and Intel's OpenMP",
    "OMP_NUM_THREADS": "read by OpenMP",
    "LOKY_MAX_CPU_COUNT": "read by joblib",
    "GPU": "a resource of dask worker",
    "FUSON": "a slip, shown as one",
}
"""Names before an equals sign that are not for make."""


def options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            each = command.get_command(context, name)
            assert each is not None
            yield from options(each)


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_links_lead_somewhere(page: str) -> None:
    lost = []
    for link in links(page):
        path, _, anchor = link.address.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        is_there = target.exists() and (not anchor or anchor in anchors(str(target.relative_to(ROOT))))
        if not is_there:
            lost.append(f"{page}:{link.line}: {link.address}")
    assert not lost


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_options_in_running_text_are_options_of_a_command(page: str) -> None:
    known = {*options(avfuse), "--help", *OTHERS_OPTIONS}
    unknown = [
        f"{page}:{each.line}: {option}"
        for each in words_in_code(page)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", each.text)
        if option not in known
    ]
    assert not unknown


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_variables_in_running_text_are_read_by_the_makefile(page: str) -> None:
    unknown = [
        f"{page}:{each.line}: {name}"
        for each in words_in_code(page)
        for name in re.findall(r"(?:^|\s)([A-Z][A-Z_]+)=", each.text)
        if name not in {*VARIABLES, *NO_VARIABLES} and not name.startswith("AVFUSE_")
    ]
    assert not unknown


def test_every_target_explains_itself_and_names_variables_that_are_read() -> None:
    """`make help` is documentation too."""
    explained = dict(re.findall(r"^([a-z-]+):.*## (.*)$", MAKEFILE, re.MULTILINE))
    phony = next(line for line in MAKEFILE.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert set(phony) == set(explained)
    for target, text in explained.items():
        named = set(re.findall(r"\b([A-Z][A-Z_]+)=", text))
        assert named <= VARIABLES, target


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_make_refuses_a_variable_that_nothing_reads() -> None:
    refused = make("fuse", "FUSON=mlp")
    assert refused.returncode == 2
    assert "nothing reads the variable FUSON" in refused.stderr
    assert make("fuse", "FUSION=mlp", "NAME=a").returncode == 0


def test_make_tells_one_seed_from_the_number_of_seeds() -> None:
    assert "name how many seeds to train from, SEEDS=N" in make("fuse", "SEED=3").stderr
    assert make("manifest", "SEED=3").returncode == 0


def test_make_predict_says_what_is_missing() -> None:
    assert "CLIP is missing" in make("predict", "RUN=runs/clips/all").stderr
    assert "RUN is missing" in make("predict", "CLIP=a.mp4").stderr
    assert make("predict", "CLIP=a.mp4", "RUN=runs/clips/all").returncode == 0
