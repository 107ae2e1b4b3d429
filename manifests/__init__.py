"""WHICH clips: the table of a data set, and the builders that write it."""

from manifests.annotations import Annotations, read_csv, read_lines
from manifests.build import Built
from manifests.builders import Builder, build, builders, register
from manifests.files import MediaTree
from manifests.listing import Listing, in_order, rows
from manifests.manifest import Manifest, Target
from manifests.store import list_manifests, load_manifest, save_manifest

__all__ = [
    "Annotations",
    "Builder",
    "Built",
    "Listing",
    "Manifest",
    "MediaTree",
    "Target",
    "build",
    "builders",
    "in_order",
    "list_manifests",
    "load_manifest",
    "read_csv",
    "read_lines",
    "register",
    "rows",
    "save_manifest",
]
