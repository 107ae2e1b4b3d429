"""Shared memory does not outlive its run, however the run ends."""

import os
import signal
import subprocess
import sys

import pytest
from checkout import ROOT

from avfuse.stages.extract import shared_memory

HOLD = """
import sys, time
from avfuse.stages.extract import shared_memory
slot = shared_memory.create(4096)
print(slot.name, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="shared memory is not seen in the file system here")
def test_what_a_killed_process_left_is_given_back_and_nobody_elses() -> None:
    mine = shared_memory.create(4096)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    shared_memory.remove_stale()
    assert (shared_memory.FOLDER / name).exists()
    os.killpg(process.pid, signal.SIGKILL)  # with what would have tidied up after it
    process.wait()
    process.stdout.close()
    shared_memory.remove_stale()
    assert not (shared_memory.FOLDER / name).exists()
    assert (shared_memory.FOLDER / mine.name).exists()
    mine.close()
    mine.unlink()
