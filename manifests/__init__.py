"""Manifests: the table of a data set's clips, and the builders that write it."""

from typing import TYPE_CHECKING

if __name__ == "manifests":  # imported by its old name
    from avfuse.old_names import redirect

    redirect(__name__)

from avfuse.manifests.annotations import Annotations, read_csv, read_lines
from avfuse.manifests.build import BuiltManifest
from avfuse.manifests.description import DatasetDescription, clip_table, sort_clips
from avfuse.manifests.manifest import Manifest, Target
from avfuse.manifests.media_tree import MediaTree
from avfuse.manifests.registry import Builder, build, builders, register
from avfuse.manifests.store import list_manifests, load_manifest, save_manifest
from avfuse.moved_modules import renamed

__all__ = [
    "Annotations",
    "Builder",
    "BuiltManifest",
    "DatasetDescription",
    "Manifest",
    "MediaTree",
    "Target",
    "build",
    "builders",
    "clip_table",
    "list_manifests",
    "load_manifest",
    "read_csv",
    "read_lines",
    "register",
    "save_manifest",
    "sort_clips",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__,
        {
            "Built": "BuiltManifest",
            "Listing": "DatasetDescription",
            "in_order": "sort_clips",
            "rows": "clip_table",
        },
    )
