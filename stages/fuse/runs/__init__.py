"""Trained heads on disk: the folder of a run, experiments that fill it, and reading them back."""

from typing import TYPE_CHECKING

from avfuse.moved_modules import renamed

if not TYPE_CHECKING:
    _PUBLIC = {"HeadRun": "SeedResult", "Run": "Run", "load_run": "load_run", "results_table": "results_table"}
    __getattr__ = renamed(__name__, {old: f"{__name__}.run_folder.{new}" for old, new in _PUBLIC.items()})
