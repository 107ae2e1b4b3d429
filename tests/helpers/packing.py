"""Archives of a few files, made on the spot."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

PLAIN, PACKED = "clips.tar", "clips.tar.gz"
BOTH = (PLAIN, PACKED)


def pack(path: Path, files: Mapping[str, bytes | Path | tarfile.TarInfo], format: int = tarfile.PAX_FORMAT) -> Path:
    """Write an archive, packed with gzip where its name says so. A TarInfo is a member without content."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=format) as tar:
        for name, file in files.items():
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file)
                continue
            held = file.read_bytes() if isinstance(file, Path) else file
            info = tarfile.TarInfo(name)
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    is_plain = path.name.endswith(".tar")
    path.write_bytes(content.getvalue() if is_plain else gzip.compress(content.getvalue(), 6, mtime=0))
    return path
