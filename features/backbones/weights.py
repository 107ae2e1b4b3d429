"""Weights: where a checkpoint is published, its download, and its verification by SHA-256."""

import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed

ATTEMPTS, SECONDS_BETWEEN = 3, 2.0
SHA256_DIGITS = 64

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights files in the hub's repositories, the preferred first."""

HUB_FILES = ("*config.json", "model.safetensors.index.json", "model-*.safetensors", *WEIGHTS_FILES)
"""The files of a model folder in the hub's layout: configurations and weights, in one file or several."""


@dataclass(frozen=True)
class Package:
    """Weights that come with an installed Python package."""

    name: str
    locate: Callable[[], Path]

    def __str__(self) -> str:
        return f"the package {self.name}"


@dataclass(frozen=True)
class Url:
    """Weights at a URL."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Hub:
    """Weights in a repository of the Hugging Face hub, pinned to a commit."""

    repository: str
    revision: str
    filename: str = "model.safetensors"

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.repository}/blob/{self.revision[:8]}/{self.filename}"


@dataclass(frozen=True)
class HubFolder:
    """Configuration and weights of a repository of the hub. revision: a commit or a branch; the commit that was fetched
    is recorded beside the files."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.repository}/tree/{self.revision}"


@dataclass(frozen=True)
class LocalFile:
    """A file or folder of the user's; a relative path starts at the working directory."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.absolute())


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Published weights: one file, or a folder of the hub's."""

    name: str  #: as in `avfuse weights fetch NAME`
    file: str  #: its file or folder name in the weights folder
    licence: str  #: SPDX identifier, or words
    source: Package | Url | Hub | HubFolder | LocalFile  #: where it comes from
    sha256: str = ""  #: its first digits, as many as are known
    non_commercial: bool = False  #: the licence forbids commercial use

    @property
    def location(self) -> Path:
        """The path it is expected at, and downloaded to."""
        if isinstance(self.source, Package):
            return self.source.locate()
        return self.source.path if isinstance(self.source, LocalFile) else weights_folder() / self.file

    @property
    def is_available(self) -> bool:
        return self.location.exists()

    def verify(self, path: Path) -> str:
        """The SHA-256 of a file or folder. Raises UsageError if it is not that of this checkpoint."""
        digest = sha256_of(path)
        expected = self.sha256 or _fetch_record(path).get("sha256", "")
        if not digest.startswith(expected):
            raise UsageError(
                f"{path} is not the checkpoint '{self.name}': its SHA-256 begins {digest[:12]}, not {expected[:12]}; "
                "delete it and fetch it again, or name the file you mean (--weights)"
            )
        return digest


@dataclass(frozen=True)
class Weights:
    """The weights to load into a network."""

    path: Path | None  #: a file or folder; None for random weights
    sha256: str  #: of the file or folder, or `random`
    checkpoint: Checkpoint | None = None  #: the published one that it is, if known

    @property
    def untrained(self) -> bool:
        return self.path is None


RANDOM = Weights(None, "random")


def weights_folder() -> Path:
    """The folder of downloaded weights: `AVFUSE_WEIGHTS`, or a folder of the user's cache."""
    if folder := os.environ.get("AVFUSE_WEIGHTS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avfuse" / "weights"


def find_weights(checkpoint: Checkpoint) -> Weights:
    """A checkpoint that has been downloaded, verified. Raises UsageError if it is missing or damaged."""
    path = checkpoint.location
    if not checkpoint.is_available:
        raise UsageError(
            f"the weights '{checkpoint.name}' are missing: avfuse weights fetch {checkpoint.name}, or put "
            f"{checkpoint.file} from {checkpoint.source} into {path.parent}, or name your own file (--weights)"
        )
    return Weights(path, checkpoint.verify(path), checkpoint)


def fetch(checkpoint: Checkpoint, *, progress: bool = True, attempts: int = ATTEMPTS) -> Path:
    """Download a checkpoint to its location, where it appears complete and verified or not at all.

    Raises UsageError if the download fails, or gives another file.
    """
    target, source = checkpoint.location, checkpoint.source
    if checkpoint.is_available:
        checkpoint.verify(target)
        return target
    if isinstance(source, Package | LocalFile):
        raise UsageError(
            f"the weights '{checkpoint.name}' come with {source}, which is missing: install it or put it there, or "
            "name a file of yours, --weights BACKBONE=FILE (WEIGHTS=BACKBONE=FILE)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, attempts + 1):
        try:
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as folder:
                _download(checkpoint, source, Path(folder), progress)
            return target
        except UsageError:
            raise
        except Exception as error:  # every download library raises errors of its own
            if attempt < attempts and _is_transient(error):
                time.sleep(SECONDS_BETWEEN * attempt)
                continue
            own = "a folder (hf:FOLDER)" if isinstance(source, HubFolder) else "your own file (--weights)"
            raise UsageError(
                f"cannot fetch {source} ({_reason(error)}): put {checkpoint.file} into {target.parent} by other means, "
                f"or name {own}"
            ) from error
    raise ValueError(f"attempts={attempts}: at least one")


def _download(checkpoint: Checkpoint, source: Url | Hub | HubFolder, folder: Path, progress: bool) -> None:
    """Download into `folder`, verify there, then move to the checkpoint's location."""
    target = checkpoint.location
    record = {"source": str(source), "licence": checkpoint.licence}
    if isinstance(source, Url):
        from torch.hub import download_url_to_file

        download = folder / target.name
        download_url_to_file(source.url, str(download), progress=progress)
    else:
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

        (enable_progress_bars if progress else disable_progress_bars)()
        if isinstance(source, Hub):
            published = get_hf_file_metadata(hf_hub_url(source.repository, source.filename, revision=source.revision))
            commit, filenames = published.commit_hash or source.revision, [source.filename]
        else:
            info = HfApi().model_info(source.repository, revision=source.revision)
            commit, filenames = str(info.sha), _model_files([sibling.rfilename for sibling in info.siblings or ()])
        hub_folder = folder / "hub"
        for name in filenames:
            hf_hub_download(source.repository, name, revision=commit, local_dir=hub_folder)
        shutil.rmtree(hub_folder / ".cache", ignore_errors=True)  # the library's own metadata
        download = hub_folder / source.filename if isinstance(source, Hub) else hub_folder
        record["revision"] = commit
        if (
            isinstance(source, Hub)
            and len(published.etag or "") == SHA256_DIGITS
            and sha256_of(download) != published.etag
        ):
            raise ValueError("the download does not have the hash that the hub states")
    record["sha256"] = checkpoint.verify(download)
    _record_path(target).write_text(json.dumps(record, indent=2) + "\n")
    download.rename(target)


def _model_files(filenames: Sequence[str]) -> list[str]:
    """The configurations and weights among a repository's files; with safetensors, no `.bin`."""
    files = [name for name in filenames if any(Path(name).match(pattern) for pattern in HUB_FILES) and "/" not in name]
    has_safetensors = any(name.endswith(".safetensors") for name in files)
    return [name for name in files if not (has_safetensors and name.endswith(".bin"))]


def _is_transient(error: Exception) -> bool:
    """Whether a retry may succeed: not after a client error, and not without a network."""
    status = (
        error.code if isinstance(error, HTTPError) else getattr(getattr(error, "response", None), "status_code", None)
    )
    if status is not None:
        return bool(status >= 500)
    unresolved = isinstance(getattr(error, "reason", None), socket.gaierror) or "[Errno -" in str(error)  # no such host
    return not unresolved and not isinstance(error, ValueError)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.fetched.json")


def _fetch_record(path: Path) -> dict[str, Any]:
    """Source and hash of a downloaded file; empty for one that was put there by hand."""
    record = _record_path(path)
    return json.loads(record.read_text()) if record.is_file() else {}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal; for a folder, of the names and hashes of its configurations and weights."""
    if not path.is_dir():
        return file_sha256(path)
    files = sorted({file for pattern in HUB_FILES for file in path.glob(pattern)})
    lines = [f"{file_sha256(file)}  {file.name}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, cached until its size or modification time changes."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class WeightsChoice:
    """The weights of each backbone: `auto` (the published ones), `random`, a checkpoint's name, a file or a folder.

    everywhere: for backbones that `by_name` does not list. by_name: pairs of backbone and weights.
    """

    everywhere: str = "auto"
    by_name: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "WeightsChoice":
        """Parse `random`, `weights/vit.safetensors`, or `tsn=mine.pth,vit=random` (`auto` for the others).

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

    def weights_for(self, backbone: str, checkpoints: Sequence[Checkpoint]) -> Weights:
        """The weights of one backbone, downloaded if they are missing.

        checkpoints: the published ones, the default first. A folder may hold a published file under its own name, or
        under the hub's. Raises UsageError if there are no such weights, or the download fails.
        """
        choice = dict(self.by_name).get(backbone, self.everywhere)
        if choice == "random":
            return RANDOM
        for checkpoint in checkpoints:
            if choice in ("auto", checkpoint.name):
                fetch(checkpoint)
                return find_weights(checkpoint)
        path = Path(choice)
        if path.is_file():
            return Weights(path, file_sha256(path))
        for checkpoint in checkpoints:
            if (path / checkpoint.file).is_file():
                return Weights(path / checkpoint.file, checkpoint.verify(path / checkpoint.file), checkpoint)
        for name in WEIGHTS_FILES:
            if (path / name).is_file():
                return Weights(path / name, file_sha256(path / name))
        if choice == "auto":
            raise UsageError(f"no weights are published for {backbone}: name a file (--weights {backbone}=FILE)")
        files = " or ".join(checkpoint.file for checkpoint in checkpoints) or "none"
        if path.is_dir():
            raise UsageError(f"weights of {backbone}: the folder {path} has no {files}")
        raise UsageError(f"weights of {backbone}: there is no file {path}; published are {files}")


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Address": "Url", "Local": "LocalFile"})
