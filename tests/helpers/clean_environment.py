"""An environment that nothing a user has set reaches: what `make test ARGS=...` hands down, a cache or weights of the
user's own, more threads than a test is meant to have, or the SIGINT that a shell lets its background jobs ignore.
Importing this cleans the environment of the process, which every process that a test starts inherits."""

import os
import re
import signal
from collections.abc import MutableMapping

from checkout import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()

VARIABLES = set(re.findall(r"\$\((?:call (?:flag|switch),)?([A-Z_]+)", MAKEFILE))
"""What the Makefile reads."""

OF_MAKE = {"MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MAKEFILES"}
OF_LIBRARIES = re.compile(r"(AVFUSE|DASK|GOMP|KMP|MKL|OMP|OPENBLAS|SLURM)_")
KEPT = {"AVFUSE_REAL_DATA", "AVFUSE_PAPERS", "AVFUSE_TEST_DEVICE", "AVFUSE_TEST_OUTCOMES"}
"""Where tests find what they cannot make themselves, the device of the GPU tests, and the file of their outcomes."""


def clean(environment: MutableMapping[str, str]) -> None:
    """Take out what changes what make, avfuse or a library does, and leave one thread to each process."""
    for name in list(environment):
        if name in OF_MAKE | VARIABLES or (OF_LIBRARIES.match(name) and name not in KEPT):
            del environment[name]
    environment["OMP_NUM_THREADS"] = "1"


clean(os.environ)
signal.signal(signal.SIGINT, signal.default_int_handler)
