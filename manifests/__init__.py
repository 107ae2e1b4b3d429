"""WHICH clips: the table of a data set, and the builders that write it."""

from manifests.builders import BUILDERS, build
from manifests.manifest import Manifest, Target
from manifests.store import list_manifests, load_manifest, save_manifest

__all__ = ["BUILDERS", "Manifest", "Target", "build", "list_manifests", "load_manifest", "save_manifest"]
