"""WHICH clips: the table of a data set, and the builders that write it."""

if __name__ == "manifests":  # imported by its old name
    from avfuse.old_names import redirect

    redirect(__name__)

from avfuse.manifests.annotations import Annotations, read_csv, read_lines
from avfuse.manifests.build import Built
from avfuse.manifests.listing import Listing, in_order, rows
from avfuse.manifests.manifest import Manifest, Target
from avfuse.manifests.media_tree import MediaTree
from avfuse.manifests.registry import Builder, build, builders, register
from avfuse.manifests.store import list_manifests, load_manifest, save_manifest

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
