"""The command line, called in this process or in one of its own."""

import io
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from checkout import ROOT

from avfuse.pipeline.cli import main

AVFUSE = [sys.executable, "-c", "from avfuse.pipeline.cli import main; main()"]


def avfuse(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call avfuse in this process, which has all libraries loaded."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with chdir(cwd), redirect_stdout(out), redirect_stderr(errors), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["avfuse", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), errors.getvalue())


def avfuse_alone(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call avfuse in a process of its own, as a shell does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*AVFUSE, *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
