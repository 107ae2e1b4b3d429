"""Weights one can trust: where a checkpoint is published, whether a file is it, and how it gets here."""

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
OWN_FILE = "your own file (--weights)"

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the hub's repositories call their weights, the preferred first."""

HUB_FILES = ("*config.json", "model.safetensors.index.json", "model-*.safetensors", *WEIGHTS_FILES)
"""What makes a folder in the hub's layout: `config.json`, a processor's, weights in one file or several."""


@dataclass(frozen=True)
class Package:
    """Weights that come with an installed Python package."""

    name: str
    locate: Callable[[], Path]

    def __str__(self) -> str:
        return f"the package {self.name}"


@dataclass(frozen=True)
class Url:
    """Weights at an address of the web."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Hub:
    """Weights in a repository of the Hugging Face hub, as they were at one commit."""

    repository: str
    revision: str
    filename: str = "model.safetensors"

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.repository}/blob/{self.revision[:8]}/{self.filename}"


@dataclass(frozen=True)
class HubFolder:
    """A whole repository of the hub, configuration and weights. revision: a commit or a branch; what it stood for when
    it was fetched is kept beside the files."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.repository}/tree/{self.revision}"


@dataclass(frozen=True)
class LocalFile:
    """A file or folder of the user's; a relative path is taken from where avfuse is run."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.absolute())


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Published weights: one file, or a folder of the hub's. sha256: its first digits, as many as are known."""

    name: str
    file: str
    licence: str
    source: Package | Url | Hub | HubFolder | LocalFile
    sha256: str = ""
    non_commercial: bool = False

    @property
    def location(self) -> Path:
        """Where it is looked for, and fetched to."""
        if isinstance(self.source, Package):
            return self.source.locate()
        return self.source.path if isinstance(self.source, LocalFile) else weights_folder() / self.file

    @property
    def is_available(self) -> bool:
        return self.location.exists()

    def verify(self, path: Path) -> str:
        """The SHA-256 of a file or folder that is to be this checkpoint. Raises UsageError when it is not."""
        found = sha256_of(path)
        expected = self.sha256 or _recorded(path).get("sha256", "")
        if not found.startswith(expected):
            raise UsageError(
                f"{path} is not the checkpoint '{self.name}': its SHA-256 begins {found[:12]}, not {expected[:12]}; "
                "delete it and fetch it again, or name the file you mean (--weights)"
            )
        return found


@dataclass(frozen=True)
class Weights:
    """What a network is loaded with. path: a file or a folder, None for random numbers; sha256: of it, or `random`;
    checkpoint: which published one it is, where that is known."""

    path: Path | None
    sha256: str
    checkpoint: Checkpoint | None = None

    @property
    def untrained(self) -> bool:
        return self.path is None


RANDOM = Weights(None, "random")


def weights_folder() -> Path:
    """`AVFUSE_WEIGHTS`, or a folder of the user's cache."""
    named = os.environ.get("AVFUSE_WEIGHTS")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avfuse" / "weights"


def find_weights(checkpoint: Checkpoint) -> Weights:
    """A checkpoint that is here already. Raises UsageError that says how to bring it when it is not, or is damaged."""
    path = checkpoint.location
    if not checkpoint.is_available:
        raise UsageError(
            f"the weights '{checkpoint.name}' are not here: avfuse weights fetch {checkpoint.name}, or put "
            f"{checkpoint.file} from {checkpoint.source} into {path.parent}, or name your own file (--weights)"
        )
    return Weights(path, checkpoint.verify(path), checkpoint)


def fetch(checkpoint: Checkpoint, *, progress: bool = True, attempts: int = ATTEMPTS) -> Path:
    """Download a checkpoint to its place, where it appears whole and verified or not at all.

    Raises UsageError when it cannot be had: offline, gone, or another file than named.
    """
    target, source = checkpoint.location, checkpoint.source
    if checkpoint.is_available:
        checkpoint.verify(target)
        return target
    if isinstance(source, Package | LocalFile):
        raise UsageError(
            f"the weights '{checkpoint.name}' come with {source}, which is not there: bring it, or name a file of "
            "yours, --weights BACKBONE=FILE (WEIGHTS=BACKBONE=FILE)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, attempts + 1):
        try:
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as folder:
                _download(checkpoint, source, Path(folder), progress)
            return target
        except UsageError:
            raise
        except Exception as error:  # each library below has errors of its own kind; whichever it is, it is told
            if attempt < attempts and _may_pass(error):
                time.sleep(SECONDS_BETWEEN * attempt)
                continue
            raise UsageError(
                f"cannot fetch {source} ({_reason(error)}): bring {checkpoint.file} by other means into "
                f"{target.parent}, or name {'a folder (hf:FOLDER)' if isinstance(source, HubFolder) else OWN_FILE}"
            ) from error
    raise ValueError(f"attempts={attempts}: at least one")


def _download(checkpoint: Checkpoint, source: Url | Hub | HubFolder, folder: Path, progress: bool) -> None:
    """Into `folder`, verified there, then moved to its place."""
    target = checkpoint.location
    record = {"source": str(source), "licence": checkpoint.licence}
    if isinstance(source, Url):
        from torch.hub import download_url_to_file

        arrived = folder / target.name
        download_url_to_file(source.url, str(arrived), progress=progress)
    else:
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

        (enable_progress_bars if progress else disable_progress_bars)()
        if isinstance(source, Hub):
            published = get_hf_file_metadata(hf_hub_url(source.repository, source.filename, revision=source.revision))
            commit, wanted = published.commit_hash or source.revision, [source.filename]
        else:
            held = HfApi().model_info(source.repository, revision=source.revision)
            commit, wanted = str(held.sha), _needed([each.rfilename for each in held.siblings or ()])
        got = folder / "hub"
        for name in wanted:
            hf_hub_download(source.repository, name, revision=commit, local_dir=got)
        shutil.rmtree(got / ".cache", ignore_errors=True)  # the library's own notes
        arrived = got / source.filename if isinstance(source, Hub) else got
        record["revision"] = commit
        if (
            isinstance(source, Hub)
            and len(published.etag or "") == SHA256_DIGITS
            and sha256_of(arrived) != published.etag
        ):
            raise ValueError("what arrived is not what the hub says it holds")
    record["sha256"] = checkpoint.verify(arrived)
    _record_of(target).write_text(json.dumps(record, indent=2) + "\n")
    arrived.rename(target)


def _needed(held: Sequence[str]) -> list[str]:
    """Of a repository's files, those that make a folder in its layout, with one kind of weights."""
    wanted = [name for name in held if any(Path(name).match(pattern) for pattern in HUB_FILES) and "/" not in name]
    safe = any(name.endswith(".safetensors") for name in wanted)
    return [name for name in wanted if not (safe and name.endswith(".bin"))]


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: not when the server says no, or there is no network at all."""
    status = (
        error.code if isinstance(error, HTTPError) else getattr(getattr(error, "response", None), "status_code", None)
    )
    if status is not None:
        return bool(status >= 500)
    nowhere = isinstance(getattr(error, "reason", None), socket.gaierror) or "[Errno -" in str(error)  # no such name
    return not nowhere and not isinstance(error, ValueError)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.fetched.json")


def _recorded(path: Path) -> dict[str, Any]:
    """What was written down of a file when it was fetched; nothing of one that was brought."""
    record = _record_of(path)
    return json.loads(record.read_text()) if record.is_file() else {}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; of a folder, that of its configuration's and weights' names and
    hashes."""
    if not path.is_dir():
        return file_sha256(path)
    files = sorted({each for pattern in HUB_FILES for each in path.glob(pattern)})
    lines = [f"{file_sha256(each)}  {each.name}" for each in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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

    def weights_for(self, backbone: str, checkpoints: Sequence[Checkpoint]) -> Weights:
        """The weights of one backbone, fetched where they are not here. checkpoints: its published ones, the default
        first. A folder may hold a published file under its own name, or under the hub's.

        Raises UsageError when they cannot be had.
        """
        wanted = dict(self.by_name).get(backbone, self.everywhere)
        if wanted == "random":
            return RANDOM
        for checkpoint in checkpoints:
            if wanted in ("auto", checkpoint.name):
                fetch(checkpoint)
                return find_weights(checkpoint)
        path = Path(wanted)
        if path.is_file():
            return Weights(path, file_sha256(path))
        for checkpoint in checkpoints:
            if (path / checkpoint.file).is_file():
                return Weights(path / checkpoint.file, checkpoint.verify(path / checkpoint.file), checkpoint)
        for name in WEIGHTS_FILES:
            if (path / name).is_file():
                return Weights(path / name, file_sha256(path / name))
        if wanted == "auto":
            raise UsageError(f"no weights are published for {backbone}: name a file (--weights {backbone}=FILE)")
        files = " or ".join(checkpoint.file for checkpoint in checkpoints) or "none"
        if path.is_dir():
            raise UsageError(f"weights of {backbone}: the folder {path} has no {files}")
        raise UsageError(f"weights of {backbone}: there is no file {path}; published are {files}")


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Address": "Url", "Local": "LocalFile"})
