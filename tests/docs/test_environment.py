"""What a user's environment holds reaches no test, and no command that a test starts."""

import os
import subprocess

import pytest
from clean_environment import ROOT, clean

A_USERS = {
    "ARGS": "-q",
    "MAKEFLAGS": " -- ARGS=-q",
    "MAKEOVERRIDES": "${-*-command-variables-*-}",
    "MAKELEVEL": "1",
    "MFLAGS": "",
    "DATASET": "mine",
    "NAME": "a-computer",
    "AVFUSE_WEIGHTS": "/mine",
    "DASK_DISTRIBUTED__WORKER__DAEMON": "True",
    "OMP_NUM_THREADS": "64",
    "SLURM_ARRAY_TASK_ID": "3",
}


def recipe(environment: dict[str, str]) -> str:
    """What `make fuse` would do in it."""
    return subprocess.run(
        ["make", "-n", "fuse"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", ["ARGS", "MAKEFLAGS", "DATASET", "NAME"])
def test_what_make_hands_down_changes_no_command_of_a_test(name: str) -> None:
    plain = recipe({"PATH": os.environ["PATH"]})
    leaking = {"PATH": os.environ["PATH"], name: A_USERS[name]}
    assert recipe(leaking) != plain
    clean(leaking)
    assert recipe(leaking) == plain


def test_only_what_tests_need_is_kept() -> None:
    kept = {"PATH": "/bin", "HOME": "/root", "AVFUSE_REAL_DATA": "/clips", "AVFUSE_PAPERS": "/papers"}
    environment = A_USERS | kept
    clean(environment)
    assert environment == kept | {"OMP_NUM_THREADS": "1"}


def test_this_process_is_clean() -> None:
    left = A_USERS.keys() & os.environ.keys()
    assert left == {"OMP_NUM_THREADS"}
    assert os.environ["OMP_NUM_THREADS"] == "1"
