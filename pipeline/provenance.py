"""Provenance of a run, for its record and its page."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avfuse.features.cache.shard_writer import software_versions
from avfuse.manifests import Manifest


def describe_run(manifest: Manifest, command: str, cache: Path) -> dict[str, Any]:
    """Data set, command, versions and time as JSON values. command: as it was typed, or a script's name."""
    return {
        "dataset": manifest.name,
        "collection": manifest.collection,
        "media_root": str(manifest.root),
        "manifest": manifest.provenance,
        "cache": str(cache.resolve()),
        "command": command,
        "software": {"python": platform.python_version(), **software_versions()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
