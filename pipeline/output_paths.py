"""Output files and folders are checked before work begins: `flag` is the option that messages name."""

from pathlib import Path

from avfuse.features.errors import UsageError


def require_folder(path: Path, flag: str) -> Path:
    """Create the folder where it is missing. Raises UsageError where it is a file or cannot be written to."""
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
    """Check a file to write. Raises UsageError where it is a folder, or its folder cannot be written to."""
    example = "out.png" if flag == "--contact-sheet" else "out"
    if path.is_dir():
        raise UsageError(f"{flag} {path} is a folder: name a file in it, for example {path / example}")
    require_folder(path.absolute().parent, flag)
    return path


def require_png(path: Path, flag: str) -> Path:
    """Check a PNG file to write. Raises UsageError for another suffix, and as `require_file`."""
    if path.suffix.lower() != ".png" and not path.is_dir():
        raise UsageError(f"{flag} {path}: the file's name ends in .png, for example {path.with_suffix('.png')}")
    return require_file(path, flag)
