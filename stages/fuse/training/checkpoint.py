"""The state of training in one file, written atomically."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from avfuse.features.atomic import atomic_write
from avfuse.features.errors import UsageError

SECONDS = 30.0
"""The interval between checkpoints: what is lost at most when training is killed."""


def tensors_under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, named without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@dataclass
class TrainingCheckpoint:
    """A safetensors file with metadata as JSON in its header. A checkpoint with another key is ignored."""

    file: Path
    key: str
    """A hash of all that training depends on."""
    written: float = 0.0
    """Time of the last write, by time.monotonic; 0: not yet."""

    def is_due(self) -> bool:
        """Whether the last one was written `SECONDS` ago or longer."""
        if not self.written:
            self.written = time.monotonic()
        return time.monotonic() - self.written >= SECONDS

    def save(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        header = {"avfuse": json.dumps({"key": self.key, **metadata})}
        saved = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self.file) as temporary:
            save_file(saved, temporary, header)
        self.written = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and metadata; None without a file, or with another key. Raises UsageError for a damaged file."""
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, framework="pt") as opened:
                metadata = json.loads(opened.metadata()["avfuse"])
                if metadata.pop("key") != self.key:
                    return None
                return {name: opened.get_tensor(name) for name in opened.keys()}, metadata  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UsageError(f"{self.file} is damaged ({error}): remove it, and training starts again") from error

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
