"""Official files of a data set, read from the user's copy; nothing is downloaded."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd

from avfuse.features.errors import UsageError


class Annotations:
    """The official files in some folders and in the folders directly in them."""

    def __init__(self, folders: Sequence[Path], guide: str = "") -> None:
        """guide: where the files come from, for the error message."""
        self.folders = folders
        self.guide = guide
        self.hashes: dict[str, str] = {}
        """The SHA-256 of every file that was used, by name."""

    def find(self, *names: str) -> Path | None:
        """The first of these files that exists, or None."""
        for name in names:
            for folder in self.folders:
                for path in [folder / name, *sorted(folder.glob(f"*/{name}"))]:
                    if path.is_file():
                        return self.use(path)
        return None

    def need(self, *names: str) -> Path:
        """The first of these files that exists. Raises UsageError that says where to get it."""
        path = self.find(*names)
        if path is None:
            searched = ", ".join(dict.fromkeys(str(folder) for folder in self.folders))
            raise UsageError(
                f"{' or '.join(names)} not found in {searched}: name its folder, ANNOTATIONS=DIR (--annotations DIR)"
                + (f"\n\n{self.guide}" if self.guide else "")
            )
        return path

    def use(self, path: Path) -> Path:
        """Record the hash of a file that the user named, and return it. Raises UsageError when it cannot be read."""
        try:
            digest = sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror})") from error
        name = path.name if self.hashes.get(path.name, digest) == digest else f"{path.parent.name}/{path.name}"
        self.hashes[name] = digest
        return path


def read_lines(path: Path) -> list[str]:
    """The lines of a file that are not blank. Raises UsageError when it is no text."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file ({error.reason})") from error


def read_csv(path: Path, columns: Sequence[str], header: bool = True) -> pd.DataFrame:
    """Read columns of a CSV file as text, empty cells as "".

    Args:
        path: of the file.
        columns: to read; without a header, all columns of the file in their order.
        header: whether the first line names the columns.

    Raises:
        UsageError: the file is no CSV file, or has other columns.
    """
    first = 0 if header else None
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=first)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a readable CSV file ({error})") from error
    if not header:
        if table.shape[1] != len(columns):
            raise UsageError(f"{path} has {table.shape[1]} columns, not {len(columns)}: {', '.join(columns)}")
        table.columns = pd.Index(columns)
    missing = [column for column in columns if column not in table]
    if missing:
        raise UsageError(f"{path} has no column '{missing[0]}' (it has {', '.join(map(str, table.columns))})")
    return table[list(columns)]
