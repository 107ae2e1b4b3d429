"""Time and memory of training: of the stretch that is measured, and nothing before it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avfuse.features.malloc import keep_large_buffers
from avfuse.stages.fuse.training.resource_usage import ResourceUsage, measure_resources

CPU = torch.device("cpu")


def test_memory_is_that_of_the_stretch_and_not_of_the_time_before() -> None:
    keep_large_buffers()  # as after training: what is freed now stays with the process
    megabytes = 200
    with measure_resources(CPU) as large:
        ones = np.ones(megabytes * 2**17)
        del ones
    with measure_resources(CPU) as small:
        pass
    if large.peak_bytes is None or small.peak_bytes is None:
        pytest.skip("this system does not say")
    assert large.peak_bytes - small.peak_bytes > 0.9 * megabytes * 2**20


def test_where_a_peak_cannot_be_reset_an_old_one_is_not_taken_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    ever = [100, 100, 100, 700]
    monkeypatch.setattr("avfuse.stages.fuse.training.resource_usage._largest_ever", lambda: ever.pop(0))
    with measure_resources(CPU) as low:
        pass
    with measure_resources(CPU) as high:
        pass
    assert (low.peak_bytes, high.peak_bytes) == (None, 700)


def test_seconds_of_an_epoch_are_without_what_comes_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(
        "avfuse.stages.fuse.training.resource_usage.time", SimpleNamespace(perf_counter=lambda: clock[0])
    )
    with measure_resources(CPU, heads=2) as usage:
        clock[0] += 30
        for _ in range(3):
            clock[0] += 2
            usage.epoch()
            usage.epoch()
    assert usage.seconds == 36
    assert usage.seconds_per_epoch == 1


def test_without_epochs_none_takes_any_time() -> None:
    assert ResourceUsage(heads=1, seconds=3.0).seconds_per_epoch is None
