"""Builders of data sets by name: those of avfuse and those that users registered."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from avfuse.features.errors import UsageError
from avfuse.features.name_rules import check_name
from avfuse.features.plugins import run_plugin_files
from avfuse.manifests.annotations import Annotations
from avfuse.manifests.build import BuiltManifest, finish_manifest
from avfuse.manifests.datasets import epic_kitchens_100, folder, kinetics_sounds, table, ucf101, vggsound
from avfuse.manifests.demo.builder import describe_demo
from avfuse.manifests.description import DatasetDescription
from avfuse.manifests.subsets import Subset

_OWN_COLUMNS = ("label_column", "group_column", "split_column", "targets", "several", "outside_root")


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Builder of a data set's description."""

    summary: str
    """One line for the list of data sets."""
    describe: Callable[..., DatasetDescription]
    """Called as `describe(root, annotations, **options)`."""
    guide: str
    """Source of the data, their terms, and the layout of the files."""
    options: tuple[str, ...] = ()
    """Names of the options that `describe` takes."""
    default_root: Callable[[Path], Path] | None = None
    """Root of the media unless the user names one, given the cache folder; None: the user must name it."""
    lists: tuple[str, ...] = ()
    """Folders of the root in which official files may lie, besides the root and the folders directly in it."""


_BUILDERS: dict[str, Builder] = {
    "demo": Builder(
        summary="a small labelled data set with sound, rendered on the spot",
        describe=describe_demo,
        guide="The demo renders its clips where they are missing.",
        options=("jobs",),
        default_root=lambda cache: cache / "media" / "demo",
    ),
    "ucf101": Builder(
        summary="UCF101, splits 1 to 3; --subset audio51: the 51 classes with sound",
        describe=ucf101.describe_ucf101,
        guide=ucf101.GUIDE,
        options=("split", "subset"),
        default_root=lambda cache: Path("data/ucf101"),
        lists=("ucfTrainTestlist",),
    ),
    "kinetics_sounds": Builder(
        summary="Kinetics-Sounds, the variants of 27 and 31 classes or your own classes of Kinetics-400",
        describe=kinetics_sounds.describe_kinetics_sounds,
        guide=kinetics_sounds.GUIDE,
        options=("variant", "classes"),
        default_root=lambda cache: Path("data/kinetics400"),
    ),
    "vggsound": Builder(
        summary="VGGSound, 309 classes; --vggsounder: several labels for its test clips",
        describe=vggsound.describe_vggsound,
        guide=vggsound.GUIDE,
        options=("vggsounder", "vggsounder_labels"),
        default_root=lambda cache: Path("data/vggsound"),
    ),
    "epic_kitchens_100": Builder(
        summary="EPIC-KITCHENS-100: verb and noun of segments of long videos",
        describe=epic_kitchens_100.describe_epic_kitchens_100,
        guide=epic_kitchens_100.GUIDE,
        options=("train_list",),
        default_root=lambda cache: Path("data/epic_kitchens_100"),
        lists=("epic-kitchens-100-annotations",),
    ),
    "folder": Builder(
        summary="any folder: class sub-folders, or a labels.csv",
        describe=folder.describe_folder,
        guide=folder.GUIDE,
        options=_OWN_COLUMNS,
    ),
    "csv": Builder(
        summary="any table with a clip a row",
        describe=table.describe_csv,
        guide=table.GUIDE,
        options=("table", *_OWN_COLUMNS),
    ),
}

PLUGIN_FILES, ENTRY_POINTS = "AVFUSE_DATASETS", "avfuse.datasets"


def register(name: str, builder: Builder) -> Builder:
    """Register a data set for every command. Raises UsageError for a name that is invalid or taken."""
    check_name(name, "data set")
    if name in _BUILDERS:
        raise UsageError(f"a data set cannot be called '{name}': the name is taken")
    _BUILDERS[name] = builder
    return builder


def builders() -> dict[str, Builder]:
    """All builders by name, plugins included. Raises UsageError for a plugin file that cannot be used."""
    _register_plugins()
    return dict(_BUILDERS)


def build(
    builder_name: str,
    root: Path | None,
    cache: Path,
    name: str | None = None,
    *,
    collection: str | None = None,
    annotations: Path | None = None,
    part: Subset | None = None,
    probe: bool = False,
    jobs: int | None = None,
    **options: Any,
) -> BuiltManifest:
    """Build the manifest of a data set.

    Args:
        builder_name: a data set of `builders`.
        root: the folder of the media; None: the builder's default.
        cache: the folder in which probes are remembered.
        name: what to call the data set; None: as the builder calls this variant.
        collection: what to call its media; None: as the builder does.
        annotations: the folder of the official files; None: the root and its sub-folders.
        part: a `Subset` of its clips; None: all.
        probe: whether to read every file's header.
        jobs: processes that do it; None: one per core.
        options: the builder's own; those that are None or empty are left to it.

    Raises:
        UsageError: an unknown data set, missing media or official files (with where to get them), an option that the
            builder does not take.
    """
    known = builders()
    if builder_name not in known:
        raise UsageError(f"unknown data set '{builder_name}': choose from {', '.join(known)}")
    builder = known[builder_name]
    given = {key: value for key, value in options.items() if value not in (None, (), [])}
    for key in given:
        if key not in builder.options:
            raise UsageError(f"data set '{builder_name}' takes no --{key.replace('_', '-')}")
    root = _media_root(builder_name, builder, root, cache)
    if jobs is not None and "jobs" in builder.options:
        given["jobs"] = jobs
    folders = [annotations] if annotations is not None else [root / part for part in ("", *builder.lists)]
    if annotations is not None and not annotations.is_dir():
        raise UsageError(f"ANNOTATIONS={annotations} is not a folder: name the folder of the official files")
    official = Annotations(folders, builder.guide)
    description = builder.describe(root, official, **given)
    if official.hashes:
        description.provenance["annotations"] = official.hashes
    return finish_manifest(
        description, root.resolve(), cache, name, collection, part, probe=probe, jobs=jobs, guide=builder.guide
    )


def _media_root(name: str, builder: Builder, root: Path | None, cache: Path) -> Path:
    if root is None:
        if builder.default_root is None:
            raise UsageError(
                f"data set '{name}' needs its media: add ROOT=DIR (make) or --root DIR, the folder of the clips"
            )
        root = builder.default_root(cache)
        if name != "demo" and not root.is_dir():
            raise UsageError(
                f"data set '{name}' needs its media: nothing in {root}; add ROOT=DIR (make) or --root DIR, the folder "
                f"of the clips\n\n{builder.guide}"
            )
    return root


@lru_cache
def _register_plugins() -> None:
    """Call the entry points of the group `avfuse.datasets`, and run the Python files in AVFUSE_DATASETS; both call
    `register`."""
    for point in entry_points(group=ENTRY_POINTS):
        point.load()()
    run_plugin_files(PLUGIN_FILES)
