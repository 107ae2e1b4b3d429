"""Calls of `probe_media`, and what is in its store."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from avfuse.manifests.media_probes import probe_media


def probe_files(paths: list[Path], store: Path, **options: Any) -> pd.DataFrame:
    return probe_media(paths, store, **{"jobs": 2, "progress": False, **options})


def stored_names(store: Path) -> set[str]:
    return {os.path.basename(path).decode() for path in pq.read_table(store)["path"].to_pylist()}


def copies(source: Path, folder: Path, names: Iterable[str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [shutil.copyfile(source, folder / name) for name in names]
