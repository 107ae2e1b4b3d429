"""What training has come to, in one file that is there as a whole or not at all."""

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
"""What is lost at most when training is killed, and how often a checkpoint is written."""


def tensors_under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What has names that begin so, without the beginning."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@dataclass
class Checkpoint:
    """A safetensors file whose header holds the rest as JSON. What was made with another `key` is not gone on from."""

    file: Path
    key: str
    written: float = 0.0

    def is_due(self) -> bool:
        """Whether the last one is long ago."""
        if not self.written:
            self.written = time.monotonic()
        return time.monotonic() - self.written >= SECONDS

    def save(self, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        header = {"avfuse": json.dumps({"key": self.key, **described})}
        saved = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self.file) as temporary:
            save_file(saved, temporary, header)
        self.written = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved; None where nothing was, or of other settings. Raises UsageError for a damaged file."""
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, framework="pt") as opened:
                described = json.loads(opened.metadata()["avfuse"])
                if described.pop("key") != self.key:
                    return None
                return {name: opened.get_tensor(name) for name in opened.keys()}, described  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UsageError(f"{self.file} is damaged ({error}): remove it, and training starts again") from error

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
