"""The number of rows that train at a time."""

from pathlib import Path
from typing import Any

import pytest
from made_up_sets import kitchen

from avfuse.pipeline.experiments import parallel
from avfuse.pipeline.experiments.rows import TableJob, TableOptions
from avfuse.pipeline.experiments.schema import load_table

TABLE = """
name: own
title: An own table
rows:
- {id: video, label: Video, head: video, video: ["imported:picture"], audio: ["imported:sound"]}
- {id: both, label: Both, head: mlp, video: ["imported:picture"], audio: ["imported:sound"]}
"""


def test_rows_share_the_cores_where_there_is_enough_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never on a GPU, never more than there are rows or memory for."""
    manifest = kitchen(tmp_path / "cache", clips=40)
    (tmp_path / "own.yaml").write_text(TABLE)
    table = load_table(str(tmp_path / "own.yaml"))
    inputs = {"video": ("imported:picture",), "audio": ("imported:sound",)}
    monkeypatch.setattr(parallel, "available_cores", lambda: 16)

    def count(epochs: int = 1000, **options: Any) -> int:
        job = TableJob(
            table,
            {row.id: inputs for row in table.trained},
            {row.id: {"epochs": epochs} for row in table.trained},
            manifest,
            tmp_path / "cache",
            tmp_path / "runs",
            TableOptions(**options),
            {},
        )
        return parallel.processes_for(job)

    assert count() == 2
    assert count(epochs=1) == 1
    assert count(device="cuda") == count(device="cuda", jobs=4) == 1
    assert count(memory_bytes=int(1.5 * parallel.PROCESS_BYTES)) == 1
    assert count(memory_bytes=int(2.5 * parallel.PROCESS_BYTES)) == 2
    assert count(epochs=1, jobs=8) == 2
