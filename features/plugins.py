"""Plug-in files: Python files, named by an environment variable, that register what they add."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from avfuse.features.errors import UsageError


def run_plugin_files(variable: str) -> None:
    """Run the files that a variable names, separated as in PATH. Raises UsageError for one that is not Python."""
    for text in filter(None, os.environ.get(variable, "").split(os.pathsep)):
        path = Path(text)
        spec = spec_from_file_location(f"avfuse_own_{path.stem}", path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise UsageError(f"{variable}: {path} is no Python file")
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except SyntaxError as error:
            raise UsageError(f"{variable}: {path}, line {error.lineno}: {error.msg}") from error
