"""How many cores this process may use, and threads that leave them to others while they wait."""

import os
import sys
import warnings
from functools import cache

WAIT_POLICY = "OMP_WAIT_POLICY"
SLEEPING = {WAIT_POLICY: "PASSIVE", "GOMP_SPINCOUNT": "30000"}
"""How long waiting threads spin: in every OpenMP runtime; in GNU's a tenth of its default, since with no spin at all
small networks lose a sixth of their speed on a quiet machine."""

_WAITING = (*SLEEPING, "KMP_BLOCKTIME")
"""All that decides how long a waiting thread spins before it sleeps. The last is LLVM's and Intel's."""

_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def let_waiting_threads_sleep() -> None:
    """Set SLEEPING for this process and its children, where PyTorch has not been imported yet.

    A thread that spins at a barrier keeps a core from the very thread it waits for as soon as others use the cores too.
    The OpenMP runtimes that PyTorch comes with read these variables when they are loaded: under OMP_WAIT_POLICY=PASSIVE
    LLVM's and Intel's set their KMP_BLOCKTIME to 0, and GNU's spins GOMP_SPINCOUNT times. Where the user has set one of
    the three, none is set.
    """
    if "torch" not in sys.modules and not any(map(os.environ.get, _WAITING)):
        os.environ.update(SLEEPING)


def available_cores() -> int:
    """How many cores this process may use, at least 1.

    The least of: the machine's cores, the process's CPU affinity, the CPU quota of the container (rounded up),
    LOKY_MAX_CPU_COUNT (all four by `joblib.cpu_count`), and SLURM_CPUS_PER_TASK, which Slurm sets even where it binds
    no job to cores.
    """
    import joblib  # imports numpy

    cores = joblib.cpu_count()
    per_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cores, int(per_task))) if per_task.isdecimal() else cores


def share_of_cores(processes: int) -> int:
    """How many cores each of so many processes has to itself, at least 1."""
    return max(1, available_cores() // processes)


@cache
def limit_torch_threads() -> None:
    """Once in a process, before networks compute on a CPU: give PyTorch no more threads than there are available cores.

    PyTorch counts the cores of the machine, or of the affinity, and knows nothing of quotas and Slurm. A number that
    the user chose, by OMP_NUM_THREADS, MKL_NUM_THREADS or `torch.set_num_threads`, is kept, and so is a lower one.

    Warns (RuntimeWarning) where threads will spin because PyTorch was imported before avfuse.
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
    """The numbers that PyTorch may have counted itself: with MKL it counts physical cores."""
    import psutil

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {os.cpu_count(), psutil.cpu_count(logical=False), affinity}
