"""Weights one can trust: where a checkpoint is published, whether a file is it, and how it gets here."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.error import URLError

from features.errors import UsageError

ATTEMPTS, SECONDS_BETWEEN = 3, 2.0


@dataclass(frozen=True)
class Package:
    """Weights that come with an installed Python package."""

    name: str
    locate: Callable[[], Path]

    def __str__(self) -> str:
        return f"the package {self.name}"


@dataclass(frozen=True)
class Address:
    """Weights at an address of the web."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Hub:
    """Weights in a repository of the Hugging Face hub."""

    repository: str
    filename: str = "model.safetensors"
    revision: str = "main"

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.repository} ({self.filename})"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published weights file. sha256: its first digits, as many as are known."""

    name: str
    file: str
    licence: str
    source: Package | Address | Hub
    sha256: str = ""
    non_commercial: bool = False

    @property
    def place(self) -> Path:
        """Where it is looked for, and fetched to."""
        if isinstance(self.source, Package):
            return self.source.locate()
        return weights_folder() / self.file

    def verify(self, path: Path) -> str:
        """The SHA-256 of a file that is to be this checkpoint. Raises UsageError when it is not."""
        found = file_sha256(path)
        if not found.startswith(self.sha256):
            raise UsageError(
                f"{path} is not the checkpoint '{self.name}': its SHA-256 begins {found[:12]}, not {self.sha256[:12]}; "
                "fetch it again, or name the file you mean (--weights)"
            )
        return found


@dataclass(frozen=True)
class Weights:
    """What a network is loaded with. path: None for random numbers; sha256: of the file, or `random`."""

    path: Path | None
    sha256: str

    @property
    def untrained(self) -> bool:
        return self.path is None


RANDOM = Weights(None, "random")
State = Literal["here", "missing", "damaged"]


def weights_folder() -> Path:
    """`AVFUSE_WEIGHTS`, or a folder of the user's cache."""
    named = os.environ.get("AVFUSE_WEIGHTS")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avfuse" / "weights"


def find(checkpoint: Checkpoint) -> Weights:
    """A checkpoint that is here already. Raises UsageError that says how to bring it when it is not, or is damaged."""
    path = checkpoint.place
    if not path.is_file():
        raise UsageError(
            f"the weights '{checkpoint.name}' are not here: avfuse weights fetch {checkpoint.name}, or put "
            f"{checkpoint.file} from {checkpoint.source} into {path.parent}, or name your own file (--weights)"
        )
    return Weights(path, checkpoint.verify(path))


def fetch(checkpoint: Checkpoint, *, progress: bool = True, attempts: int = ATTEMPTS) -> Path:
    """Download a checkpoint to its place, where it appears whole and verified or not at all.

    Raises UsageError when it cannot be had: offline, gone, or another file than named.
    """
    target = checkpoint.place
    if target.is_file():
        checkpoint.verify(target)
        return target
    if isinstance(checkpoint.source, Package):
        raise UsageError(f"the weights '{checkpoint.name}' come with {checkpoint.source}: install it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    problem: Exception | None = None
    for attempt in range(attempts):
        if attempt:
            time.sleep(SECONDS_BETWEEN * attempt)
        try:
            _download(checkpoint.source, target, checkpoint.sha256, progress)
        except (OSError, URLError, RuntimeError) as error:
            problem = error
        else:
            checkpoint.verify(target)
            return target
    raise UsageError(
        f"cannot fetch {checkpoint.source} ({_first_line(problem)}): bring {checkpoint.file} by other means into "
        f"{target.parent}"
    ) from problem


def _download(source: Address | Hub, target: Path, sha256: str, progress: bool) -> None:
    if isinstance(source, Address):
        from torch.hub import download_url_to_file

        download_url_to_file(source.url, str(target), hash_prefix=sha256 or None, progress=progress)
        return
    from huggingface_hub import hf_hub_download

    held = hf_hub_download(source.repository, source.filename, revision=source.revision)
    temporary = target.with_suffix(".part")
    shutil.copyfile(held, temporary)
    temporary.rename(target)


def _first_line(error: Exception | None) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; read again only when its size or time has changed."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class WeightsChoice:
    """Which weights each backbone gets: `auto` (the published ones), `random`, or a file or folder.

    everywhere: for backbones not named in `by_name`.
    """

    everywhere: str = "auto"
    by_name: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "WeightsChoice":
        """Read `random`, `weights/vit.safetensors`, or `tsn=mine.pth,vit=random` (the others then get `auto`).

        Raises UsageError for an empty part.
        """
        parts = [part.strip() for part in text.split(",")]
        named = [part.partition("=")[::2] for part in parts if "=" in part]
        others = [part for part in parts if "=" not in part]
        if len(others) > 1 or "" in parts or any(not name or not value for name, value in named):
            raise UsageError(
                f"weights '{text}': write auto, random, a file or a folder, or NAME=FILE for each backbone, with commas"
            )
        return cls(others[0] if others else "auto", tuple(named))

    def of(self, backbone: str, checkpoints: Sequence[Checkpoint]) -> Weights:
        """The weights of one backbone. checkpoints: its published ones, the default first.

        Raises UsageError when they are not here.
        """
        wanted = dict(self.by_name).get(backbone, self.everywhere)
        if wanted == "random":
            return RANDOM
        if wanted == "auto":
            return find(checkpoints[0])
        for checkpoint in checkpoints:
            if wanted == checkpoint.name:
                return find(checkpoint)
        path = Path(wanted)
        if path.is_file():
            return Weights(path, file_sha256(path))
        for checkpoint in checkpoints:
            if (path / checkpoint.file).is_file():
                return Weights(path / checkpoint.file, checkpoint.verify(path / checkpoint.file))
        files = " or ".join(checkpoint.file for checkpoint in checkpoints)
        if path.is_dir():
            raise UsageError(f"weights of {backbone}: the folder {path} has no {files}")
        raise UsageError(f"weights of {backbone}: there is no file {path}; published are {files}")
