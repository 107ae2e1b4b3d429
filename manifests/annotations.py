"""The official files of a data set, read from the user's copy. Nothing is downloaded."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd

from avfuse.features.errors import UsageError


class Annotations:
    """Where official files are looked for: in the folders themselves and in the folders directly in them.

    `hashes` holds the SHA-256 of every file that was used, by name. `guide` says where the files come from.
    """

    def __init__(self, folders: Sequence[Path], guide: str = "") -> None:
        self.folders = folders
        self.guide = guide
        self.hashes: dict[str, str] = {}

    def find(self, *names: str) -> Path | None:
        """The first of these files that is there."""
        for name in names:
            for folder in self.folders:
                for path in [folder / name, *sorted(folder.glob(f"*/{name}"))]:
                    if path.is_file():
                        return self.use(path)
        return None

    def need(self, *names: str) -> Path:
        """The first of these files that is there. Raises UsageError that says where it comes from."""
        path = self.find(*names)
        if path is None:
            looked = ", ".join(dict.fromkeys(str(folder) for folder in self.folders))
            raise UsageError(
                f"{' or '.join(names)} not found in {looked}: name its folder, ANNOTATIONS=DIR (--annotations DIR)"
                + (f"\n\n{self.guide}" if self.guide else "")
            )
        return path

    def use(self, path: Path) -> Path:
        """A file the user named. Raises UsageError when it cannot be read."""
        try:
            digest = sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror})") from error
        name = path.name if self.hashes.get(path.name, digest) == digest else f"{path.parent.name}/{path.name}"
        self.hashes[name] = digest
        return path


def read_lines(path: Path) -> list[str]:
    """Lines with something on them. Raises UsageError when the file is no text."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file ({error.reason})") from error


def read_csv(path: Path, columns: Sequence[str], header: bool = True) -> pd.DataFrame:
    """The columns as text, empty cells as "". Without a header the file's columns are just these, in their order.

    Raises UsageError for a file that is no CSV, or has other columns.
    """
    try:
        if header:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=None)
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
