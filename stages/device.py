"""The devices that networks and heads run on."""

import psutil
import torch

from avfuse.features.errors import UsageError


def choose_device(name: str) -> str:
    """A device by name; `auto` is a CUDA GPU where there is one. Raises UsageError for one that this machine lacks."""
    available = {"cpu"}
    if torch.cuda.is_available():
        available |= {"cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))}
    if torch.backends.mps.is_available():
        available.add("mps")
    if name == "auto":
        return "cuda" if "cuda" in available else "cpu"
    if name not in available:
        raise UsageError(f"device '{name}' is not on this machine: choose from {', '.join(sorted(available))}")
    return name


def choose_devices(names: str) -> list[str]:
    """Devices by comma-separated names; `cuda`, and `auto` with a GPU, mean all GPUs. Raises as `choose_device`."""
    chosen = [choose_device(name.strip()) for name in names.split(",")]
    if chosen == ["cuda"]:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return chosen


def device_memory_bytes(device: str) -> int:
    """Total memory of a device; of a GPU, no more than the machine's main memory, through which everything passes."""
    main = int(psutil.virtual_memory().total)
    if device.startswith("cuda"):
        return min(main, torch.cuda.get_device_properties(device).total_memory)
    return main
