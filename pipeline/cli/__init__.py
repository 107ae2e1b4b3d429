"""The `avfuse` command. Each command lives in its own file and imports what it needs when it runs, so that `--help`
answers at once."""

from avfuse.pipeline.cli.main import main

__all__ = ["main"]
