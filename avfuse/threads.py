"""Number of usable cores, and threads that sleep while they wait."""

import os
import sys
import warnings
from functools import cache

WAIT_POLICY = "OMP_WAIT_POLICY"
SLEEPING = {WAIT_POLICY: "PASSIVE", "GOMP_SPINCOUNT": "30000"}
"""Spinning of waiting threads: none in most OpenMP runtimes; in GNU's a tenth of its default, because without any
small networks lose a sixth of their speed on an idle machine."""

_WAITING = (*SLEEPING, "KMP_BLOCKTIME")
"""The variables that control spinning; the last is LLVM's and Intel's."""

_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def let_waiting_threads_sleep() -> None:
    """Set SLEEPING for this process and its children, unless PyTorch has been imported already.

    On a shared machine a thread that spins at a barrier occupies a core that the thread it waits for needs.
    PyTorch's OpenMP runtimes read these variables when they are loaded: under OMP_WAIT_POLICY=PASSIVE
    LLVM's and Intel's set their KMP_BLOCKTIME to 0, and GNU's spins GOMP_SPINCOUNT times. Nothing is
    set when the user has set one of the three.
    """
    if "torch" not in sys.modules and not any(map(os.environ.get, _WAITING)):
        os.environ.update(SLEEPING)


def available_cores() -> int:
    """Number of cores that this process may use, at least 1.

    The minimum of the machine's cores, the process's CPU affinity, the CPU quota of the container (rounded up),
    LOKY_MAX_CPU_COUNT (all four by `joblib.cpu_count`), and SLURM_CPUS_PER_TASK, which Slurm sets even when it does
    not bind jobs to cores.
    """
    import joblib  # imports numpy

    cores = joblib.cpu_count()
    per_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cores, int(per_task))) if per_task.isdecimal() else cores


def share_of_cores(processes: int) -> int:
    """Number of cores per process, at least 1."""
    return max(1, available_cores() // processes)


@cache
def limit_torch_threads() -> None:
    """Limit PyTorch to the available cores, once per process.

    PyTorch counts the cores of the machine or of the affinity, ignoring quotas and Slurm. A number chosen by the user
    (OMP_NUM_THREADS, MKL_NUM_THREADS, `torch.set_num_threads`) is kept, and so is a lower one.

    Warns (RuntimeWarning) when threads will spin because PyTorch was imported before avfuse.
    """
    import torch

    cores = available_cores()
    is_default = torch.get_num_threads() in _default_thread_counts()
    if is_default and torch.get_num_threads() > cores and not any(os.environ.get(name) for name in _COUNTS):
        torch.set_num_threads(cores)
    if sys.platform == "linux" and torch.get_num_threads() > 1 and not any(map(os.environ.get, _WAITING)):
        warnings.warn(
            "torch was imported before avfuse, so its waiting threads spin; on a machine that others use too this can "
            f"take ten times as long: import avfuse first, or set {WAIT_POLICY}=PASSIVE before Python starts",
            RuntimeWarning,
            stacklevel=2,
        )


def _default_thread_counts() -> set[int | None]:
    """Numbers of threads that PyTorch may choose by itself: with MKL it counts physical cores."""
    import psutil

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {os.cpu_count(), psutil.cpu_count(logical=False), affinity}
