"""A cluster's worker keeps its networks and processes, and releases them after an error."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from avfuse.stages.extract import dask_worker
from avfuse.stages.extract.extractor import ExtractionJob, Progress
from avfuse.stages.extract.plan import Chunk

EXTRACTION = ExtractionJob((), Path("cache"), "set", ())


class Recorder:
    """In place of an Extractor: records whether it was closed."""

    instances: list["Recorder"]

    def __init__(self, *_: object) -> None:
        self.closed = False
        Recorder.instances.append(self)

    def run(self, chunks: list[Chunk]) -> Iterator[Progress]:
        if chunks == ["full disk"]:
            raise OSError("No space left on device")
        yield Progress(finished=True)

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Recorder.instances = []
    monkeypatch.setattr(dask_worker, "Extractor", Recorder)
    yield
    dask_worker.release_extractor()


def extract_chunk(chunk: object) -> Progress:
    return dask_worker.extract_chunk(EXTRACTION, chunk, "cpu", 1)  # type: ignore[arg-type]


def test_networks_and_processes_are_kept_from_chunk_to_chunk() -> None:
    assert extract_chunk("one").finished
    assert extract_chunk("two").finished
    assert [extractor.closed for extractor in Recorder.instances] == [False]
    dask_worker.release_extractor()
    assert [extractor.closed for extractor in Recorder.instances] == [True]


def test_after_an_error_nothing_is_used_again_that_may_still_be_at_work() -> None:
    with pytest.raises(OSError, match="No space left"):
        extract_chunk("full disk")
    assert extract_chunk("next").finished
    assert [extractor.closed for extractor in Recorder.instances] == [True, False]
