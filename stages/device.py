"""Where tensors live."""

import psutil
import torch

from avfuse.features.errors import UsageError


def choose_device(name: str) -> str:
    """`auto` takes a CUDA GPU where there is one. Raises UsageError for a device this machine lacks."""
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
    """Devices, by commas; `cuda`, and `auto` where there is one, mean every GPU. Raises UsageError for one not here."""
    chosen = [choose_device(name.strip()) for name in names.split(",")]
    if chosen == ["cuda"]:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return chosen


def device_memory_bytes(device: str) -> int:
    """How many bytes fit on a device in all, of a GPU no more than the machine's own memory has, which everything
    passes through: what fits does not change from one run to the next."""
    main = int(psutil.virtual_memory().total)
    if device.startswith("cuda"):
        return min(main, torch.cuda.get_device_properties(device).total_memory)
    return main
