"""Options that several commands share."""

from pathlib import Path

import click

from features.errors import UsageError

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("cache"),
    envvar="AVFUSE_CACHE",
    show_default=True,
    help="Folder of manifests and features.",
)
runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="AVFUSE_RUNS",
    show_default=True,
    help="Folder of trained heads and their results.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps; auto takes a GPU where there is one."
)
reader_option = click.option(
    "--reader",
    default="pyav",
    show_default=True,
    help="Who decodes frames: pyav, or decord, which refuses files in which it would give wrong ones.",
)


def require_folder(path: Path, flag: str) -> Path:
    """The folder, made where missing. Raises UsageError when a file stands in its place or it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{flag} {path} is a file, not a folder: name another place") from error
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be made ({error.strerror}): name another place") from error
    probe = path / ".avfuse-write-test"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written to ({error.strerror}): name another place") from error
    return path


def require_file(path: Path, flag: str) -> Path:
    """The path of a file to write. Raises UsageError when it is a folder, or its folder cannot be written to."""
    if path.is_dir():
        raise UsageError(f"{flag} {path} is a folder: name a file in it, for example {path / 'out'}")
    require_folder(path.absolute().parent, flag)
    return path


def names(text: str) -> list[str]:
    """A comma-separated option as a list."""
    return [part.strip() for part in text.split(",") if part.strip()]
