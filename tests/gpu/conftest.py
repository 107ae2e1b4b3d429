"""Where the checks of the GPU run: on a GPU where there is one, elsewhere not at all unless a device is named.

AVFUSE_TEST_DEVICE=cpu runs the same code on a CPU, so that the checks themselves are tested where no GPU is at hand.
AVFUSE_TEST_OUTCOMES names a file that gets a line of JSON per test as soon as it is over, which a killed run leaves.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
NAMED = os.environ.get("AVFUSE_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
DEVICE = "cuda:0" if NAMED == "cuda" else NAMED
OUTCOMES = os.environ.get("AVFUSE_TEST_OUTCOMES")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not DEVICE:
                item.add_marker(pytest.mark.skip(reason="no GPU here (AVFUSE_TEST_DEVICE=cpu runs it on the CPU)"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if OUTCOMES and (report.when == "call" or report.outcome != "passed"):
        line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        line |= dict(report.user_properties)
        if report.outcome != "passed":
            line["reason"] = str(report.longrepr)[-2000:]
        with Path(OUTCOMES).open("a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture(scope="session", autouse=True)
def _all_cores() -> Iterator[None]:
    """The CPU's side of each comparison would keep a GPU waiting."""
    before = torch.get_num_threads()
    if DEVICE.startswith("cuda"):
        torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _memory_given_back() -> Iterator[None]:
    """One test's memory is not missing in the next."""
    yield
    if DEVICE.startswith("cuda"):
        torch.cuda.empty_cache()
