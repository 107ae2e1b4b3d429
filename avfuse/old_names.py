"""The names that the four packages had before they were part of `avfuse`, in a checkout and for one release.

`import features` in a checkout runs `features/__init__.py` under its old name, which calls `redirect`. From then on
`features` and everything below it are the very modules of `avfuse.features`, so that no class exists twice.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_redirected: set[str] = set()


def redirect(name: str) -> None:
    """Let the top-level module `name` (features, stages, manifests or pipeline) be `avfuse.name`, with a warning."""
    warnings.warn(
        f"'{name}' is 'avfuse.{name}' now: import it by that name; the old one goes with the next release",
        FutureWarning,
        stacklevel=3,
    )
    if not _redirected:
        sys.meta_path.insert(0, _OldNameFinder())
    _redirected.add(name)
    sys.modules[name] = importlib.import_module(f"avfuse.{name}")


class _OldNameFinder(MetaPathFinder):
    """Finds `features.cache` as `avfuse.features.cache`, once `features` has been redirected."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, dot, _ = fullname.partition(".")
        return ModuleSpec(fullname, _OldNameLoader()) if dot and package in _redirected else None


class _OldNameLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"avfuse.{spec.name}")
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the alias's here
