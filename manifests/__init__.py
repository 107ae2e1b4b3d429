"""WHICH clips: the table of a data set, and the builders that write it."""

from manifests.builders import BUILDERS, build
from manifests.manifest import Manifest
from manifests.store import list_manifests, load_manifest, save_manifest

__all__ = ["BUILDERS", "Manifest", "build", "list_manifests", "load_manifest", "save_manifest"]
