"""The data sets avfuse knows how to describe, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import UsageError
from manifests.demo.builder import build_demo
from manifests.folder import build_folder
from manifests.manifest import Manifest


@dataclass(frozen=True)
class Builder:
    """How one data set is described. `build` takes the root and the options that `options` names."""

    summary: str
    build: Callable[..., Manifest]
    options: tuple[str, ...] = ()
    default_root: Callable[[Path], Path] | None = None  # from the cache folder; None: the user names it


BUILDERS: dict[str, Builder] = {
    "demo": Builder(
        summary="a small labelled data set with sound, rendered on the spot",
        build=build_demo,
        options=("jobs",),
        default_root=lambda cache: cache / "media" / "demo",
    ),
    "folder": Builder(
        summary="any folder: class sub-folders, or a labels.csv",
        build=build_folder,
        options=("label_column", "group_column", "split_column", "outside_root"),
    ),
}


def build(builder_name: str, root: Path | None, cache: Path, name: str | None = None, **options: Any) -> Manifest:
    """Describe a data set. Options that are None are left to the builder.

    Raises UsageError for an unknown data set, a missing root, or an option the builder does not take.
    """
    if builder_name not in BUILDERS:
        raise UsageError(f"unknown data set '{builder_name}': choose from {', '.join(BUILDERS)}")
    builder = BUILDERS[builder_name]
    if root is None:
        if builder.default_root is None:
            raise UsageError(
                f"data set '{builder_name}' needs its media: add ROOT=DIR (make) or --root DIR, the folder of the clips"
            )
        root = builder.default_root(cache)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in builder.options:
            raise UsageError(f"data set '{builder_name}' takes no --{key.replace('_', '-')}")
    return builder.build(root, name=name, **given)
