"""Waiting threads sleep, and there are no more of them than cores that the process may use."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from checkout import ROOT
from joblib.externals.loky.backend import context as loky

from avfuse import threads
from avfuse.threads import available_cores, limit_torch_threads, share_of_cores

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
VARIABLES = (*WAITING, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "SLURM_CPUS_PER_TASK")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the warning, affinity and cgroups are Linux's")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable is set, and PyTorch has its own number of threads back afterwards."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    limit_torch_threads.cache_clear()
    yield
    torch.set_num_threads(before)
    limit_torch_threads.cache_clear()


def run(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )


def machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, affinity: int | None = None, files: dict[str, str] | None = None
) -> None:
    """A machine of so many cores, on which the process may use `affinity`, and whose control groups say `files`."""
    said = {f"/sys/fs/cgroup/{name}": text for name, text in (files or {}).items()}
    exists, opened = os.path.exists, open

    def fake_exists(path: Any) -> bool:
        return path in said if str(path).startswith("/sys/fs/cgroup/") else exists(path)

    def fake_open(path: Any, *arguments: Any, **named: Any) -> Any:
        return StringIO(said[path]) if path in said else opened(path, *arguments, **named)

    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity or cores)), raising=False)
    monkeypatch.setattr(os.path, "exists", fake_exists)
    monkeypatch.setattr(loky, "open", fake_open, raising=False)


def waiting_in_a_child(folder: Path, **variables: str) -> dict[str, str]:
    """What a process that avfuse started finds set of WAITING."""
    code = (
        "import avfuse, subprocess, sys\n"
        "show = 'import json, os; print(json.dumps(dict(os.environ)))'\n"
        "print(subprocess.run([sys.executable, '-c', show], capture_output=True, text=True).stdout)"
    )
    environment = json.loads(run(code, folder, **variables).stdout)
    return {name: environment[name] for name in WAITING if name in environment}


def test_importing_avfuse_lets_waiting_threads_sleep_in_children_too(tmp_path: Path) -> None:
    assert waiting_in_a_child(tmp_path) == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"}


def test_benchmarks_wait_as_avfuse_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    exported = dict(re.findall(r"^bench bench-%: export (\w+) = (\w+)$", makefile, re.MULTILINE))
    assert exported == threads.SLEEPING


@on_linux
def test_the_openmp_runtime_of_torch_reads_it(tmp_path: Path) -> None:
    shown = run("import avfuse, torch", tmp_path, OMP_DISPLAY_ENV="VERBOSE").stderr
    settings = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT)\s*=\s*'(\w+)'", shown))
    assert settings == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE"),
        ("OMP_WAIT_POLICY", "passive"),
        ("GOMP_SPINCOUNT", "0"),
        ("KMP_BLOCKTIME", "200"),
    ],
)
def test_what_the_user_set_is_kept_and_nothing_added(tmp_path: Path, variable: str, value: str) -> None:
    assert waiting_in_a_child(tmp_path, **{variable: value}) == {variable: value}


def test_nothing_is_set_or_said_on_import_once_torch_is_there(tmp_path: Path) -> None:
    code = (
        "import os, sys, types\n"
        "sys.modules['torch'] = types.ModuleType('torch')  # stands for it: only its name counts\n"
        "import avfuse\n"
        "print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    )
    result = run(code, tmp_path)
    assert (result.stdout.split(), result.stderr) == (["None", "None"], "")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "130000 100000"}, 2),
        ({"cpu.max": "30000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "230000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_cores_follow_the_quota_of_a_container(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    machine(monkeypatch, 16, files=files)
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("variable", "value", "cores"),
    [
        ("SLURM_CPUS_PER_TASK", "3", 3),
        ("SLURM_CPUS_PER_TASK", "64", 8),
        ("SLURM_CPUS_PER_TASK", "0", 1),
        ("SLURM_CPUS_PER_TASK", "", 8),
        ("SLURM_CPUS_PER_TASK", "3(x2)", 8),
        ("LOKY_MAX_CPU_COUNT", "5", 5),
    ],
)
def test_cores_follow_affinity_and_variables(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, cores: int
) -> None:
    machine(monkeypatch, 16, affinity=8)
    assert available_cores() == 8
    monkeypatch.setenv(variable, value)
    assert available_cores() == cores


@pytest.mark.parametrize(("processes", "cores"), [(1, 7), (2, 3), (7, 1), (8, 1)])
def test_processes_share_the_cores_and_each_has_one(
    monkeypatch: pytest.MonkeyPatch, processes: int, cores: int
) -> None:
    machine(monkeypatch, 16, affinity=7)
    assert share_of_cores(processes) == cores


@pytest.mark.slow
@on_linux
def test_a_process_that_is_bound_to_one_core_uses_one(tmp_path: Path) -> None:
    code = (
        "import avfuse, torch, os\n"
        "from avfuse.threads import available_cores, limit_torch_threads\n"
        "torch.set_num_threads(os.cpu_count())\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "limit_torch_threads()\n"
        "print(available_cores(), torch.get_num_threads())"
    )
    result = run(code, tmp_path)
    assert (result.stdout.split(), result.stderr) == (["1", "1"], "")


def torch_threads(monkeypatch: pytest.MonkeyPatch, before: int) -> int:
    """Of a process that may use two cores of sixteen."""
    machine(monkeypatch, 16, files={"cpu.max": "200000 100000"})
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(before)
    limit_torch_threads()
    return torch.get_num_threads()


@pytest.mark.parametrize(
    ("before", "after"), [(16, 2), (2, 2), (1, 1), (5, 5)], ids=["default", "as many", "fewer", "the user's"]
)
def test_torch_has_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch, before: int, after: int) -> None:
    assert torch_threads(monkeypatch, before) == after


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_of_threads_in_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "16")
    assert torch_threads(monkeypatch, 16) == 16


@on_linux
def test_threads_that_will_spin_are_said_once_where_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 16)
    torch.set_num_threads(2)
    with pytest.warns(RuntimeWarning, match=r"imported before avfuse.*OMP_WAIT_POLICY=PASSIVE.*$"):
        limit_torch_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limit_torch_threads()


@on_linux
@pytest.mark.parametrize("variable", [*WAITING, None])
def test_nothing_is_said_where_it_does_not_matter(monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    """The user has decided how threads wait, or there is one thread."""
    torch.set_num_threads(1 if variable is None else 2)
    if variable is not None:
        monkeypatch.setenv(variable, "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads.limit_torch_threads()


@pytest.mark.slow
@on_linux
def test_training_in_a_script_that_imported_torch_first_says_so(tmp_path: Path) -> None:
    code = (
        "import torch, numpy as np, avfuse\n"
        "torch.set_num_threads(2)\n"
        "X, y = np.random.rand(12, 4).astype('f4'), [0, 1] * 6\n"
        "for _ in range(2): avfuse.FusionClassifier(settings={'epochs': 1}, validation_fraction=0).fit(X, y)\n"
    )
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("torch was imported before avfuse") == 1
