"""Commands as a terminal shows them, in the tests' own process, which has all libraries loaded."""

import io
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from avfuse.pipeline.cli import main

REGISTRIES = (
    (import_module("avfuse.features.audio_images.registry"), "_IMAGES"),
    (import_module("avfuse.features.backbones.registry"), "_BACKBONES"),
    (import_module("avfuse.manifests.registry"), "_BUILDERS"),
    (import_module("avfuse.stages.fuse.heads.base"), "_HEADS"),
)
"""Where a user's own files register what they add, once in a process: each command here begins anew."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str = ""
    err: str = ""


@contextmanager
def own_files(environment: Mapping[str, str]) -> Iterator[None]:
    """Inside, variables of AVFUSE_ are these, and what the files that they name register is there."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            if name.startswith("AVFUSE_"):
                patch.setenv(name, value)
        for module, registry in REGISTRIES:
            patch.setattr(module, registry, dict(getattr(module, registry)))
            module._register_plugins.cache_clear()
        yield
    for module, _ in REGISTRIES:
        module._register_plugins.cache_clear()


def run_here(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> Answer:
    """What `avfuse` prints and ends with, called in a folder."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
        own_files(environment),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["avfuse", *arguments])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:  # noqa: BLE001 - a bug is shown with its command, and the page goes on
            traceback.print_exc()
            code = 1
    return Answer(code, out.getvalue(), err.getvalue())
