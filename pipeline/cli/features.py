"""`avfuse features`: list, verify, remove, export and import cached features."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from avfuse.pipeline.cli.options import cache_option
from avfuse.pipeline.output_paths import require_file

if TYPE_CHECKING:
    from avfuse.features.cache.maintenance.imports import Stored

DTYPES: "dict[str, Stored]" = {"fp16": "float16", "fp32": "float32"}
HASH_DIGITS = 12

dataset_option = click.option("--dataset", required=True, metavar="D", help="A data set that was listed before.")


@click.group(short_help="List, verify, remove, export and import cached features.")
def features() -> None:
    """The features in the cache.

    FEATURE is a feature's name, such as lite:frames, or NAME@KEY where several variants of it are cached.

    \b
    Examples:
      avfuse features list
      avfuse features list --dataset demo --missing
      avfuse features verify --repair
      avfuse features export lite:frames --dataset demo -o frames.npz
      avfuse features import i3d/ --dataset clips --name i3d --modality video --description "I3D RGB, Kinetics-400" \\
          --pattern '{stem}_rgb.npy' --reduce mean
    """


@features.command(name="list", short_help="Cached features with their clips, and clips that are missing.")
@click.option("--dataset", metavar="D", help="Count this data set's clips only.")
@click.option("--missing", is_flag=True, help="Name the missing clips, and the reasons of failures.")
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@cache_option
def list_them(dataset: str | None, missing: bool, as_json: bool, cache: Path) -> None:
    """List every cached feature: clips by outcome, missing clips, size, shape and source.

    Without --dataset every clip with a row is counted, and the missing clips of each data set of the collection.
    """
    from avfuse.features.errors import UsageError
    from avfuse.pipeline.cached_features import list_features
    from avfuse.pipeline.report.feature_list import feature_json, feature_lines

    if missing and dataset is None:
        raise UsageError("--missing needs a data set: add --dataset")
    entries = []
    for collection, data_sets, features in list_features(cache, dataset):
        entries += [feature_json(feature, dataset) for feature in features]
        if features and not as_json:
            counts = ", ".join(f"{name} ({len(clips)} clips)" for name, clips in data_sets.items()) or "none"
            click.echo("\n".join([f"{collection}; data sets: {counts}", *feature_lines(features, missing)]))
    if as_json:
        click.echo(json.dumps({"cache": str(cache), "features": entries}, indent=2))
    elif not entries:
        click.echo(f"no features in {cache}" + (f" for '{dataset}'" if dataset else "") + ": avfuse extract makes some")


@features.command(short_help="Verify every shard, and repair damage.")
@click.argument("names", nargs=-1, metavar="[FEATURE]...")
@click.option("--dataset", metavar="D", help="Only the features of this data set's collection.")
@click.option("--repair", is_flag=True, help="Set damaged shards aside, drop duplicate rows, delete leftovers of runs.")
@cache_option
def verify(names: tuple[str, ...], dataset: str | None, repair: bool, cache: Path) -> None:
    """Read every shard and check its hash, its header against HDF5, its key and its numbers; then look for duplicate
    rows and foreign files. Prints a line per problem; the exit code is 1 if one remains.

    Damaged shards are moved to a folder set-aside/ beside them, with the reason, and the next extraction computes their
    clips again. Repairing is safe while extractions run.
    """
    from tqdm import tqdm

    from avfuse.features.cache.catalog import cached_features
    from avfuse.features.cache.maintenance import verify_repair
    from avfuse.pipeline.cached_features import find_features
    from avfuse.pipeline.report.feature_list import count_text, size_text

    chosen = find_features(cache, names, dataset)
    shards = [
        path
        for collection, features in chosen.items()
        for feature in (cached_features(cache, collection) if features is None else features)
        for path in feature.paths()
    ]
    sizes = [path.stat().st_size for path in shards]
    problems = repaired = 0
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="verify", disable=None) as bar:
        for collection, features in chosen.items():
            for finding in verify_repair.verify(cache, collection, features, repair, bar.update):
                problems += 1
                repaired += bool(finding.repaired)
                repair_note = f" ({finding.repaired})" if finding.repaired else ""
                tqdm.write(f"{finding.path}: {finding.problem}{repair_note}")
    result = f"{problems} found, {repaired} repaired" if problems else "nothing wrong"
    count = count_text(len({path.parent for path in shards}), "feature")
    click.echo(f"{count}, {count_text(len(shards), 'shard')}, {size_text(sum(sizes))} read: {result}")
    if problems > repaired:
        if not repair:
            click.echo("avfuse features verify --repair repairs what it can", err=True)
        raise click.exceptions.Exit(1)


@features.command(short_help="Remove features, or rows that no data set can use.")
@click.argument("names", nargs=-1, metavar="[FEATURE]...")
@click.option(
    "--unreachable", is_flag=True, help="Features that this version cannot compute, and rows that no data set lists."
)
@dataset_option
@click.option("--yes", is_flag=True, help="Remove; without it the removal is only shown.")
@cache_option
def remove(names: tuple[str, ...], unreachable: bool, dataset: str, yes: bool, cache: Path) -> None:
    """Remove features of a data set's collection, or with --unreachable features whose reader, representation, filter
    bank or backbone has another revision now, and rows of clips that no data set of the collection lists.

    \b
    Examples:
      avfuse features remove lite:frames@d5438abd --dataset demo
      avfuse features remove --unreachable --dataset demo --yes
    """
    from avfuse.features.cache.catalog import cached_features, select_feature
    from avfuse.features.cache.clip_query import ClipQuery
    from avfuse.features.cache.maintenance import remove as maintenance
    from avfuse.features.errors import UsageError
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.cached_features import load_manifests, plan_unreachable
    from avfuse.pipeline.report.feature_list import removal_line, removal_total

    if bool(names) == unreachable:
        raise UsageError("name the features to remove, or say --unreachable")
    collection = load_manifest(cache, dataset).collection
    features = cached_features(cache, collection)
    listed: list[ClipQuery] = []
    if unreachable:
        sharing = [manifest for manifest in load_manifests(cache) if manifest.collection == collection]
        listed = [ClipQuery(manifest.clips()) for manifest in sharing]
        for feature in features:
            if feature.spec is None and feature.paths():
                click.echo(f"{feature.name} cannot be read and is left alone: avfuse features verify", err=True)
        removals = plan_unreachable(features, listed)
    else:
        chosen = dict.fromkeys(select_feature(features, name, collection) for name in names)
        removals = [maintenance.plan_whole(feature) for feature in chosen]
    for removal in removals:
        click.echo(removal_line(removal))
    if not removals:
        click.echo("nothing to remove")
    elif not yes:
        click.echo(f"would remove from collection '{collection}': {removal_total(removals)}; add --yes to do it")
    else:
        maintenance.remove(cache, collection, removals, listed)
        click.echo(f"removed from collection '{collection}': {removal_total(removals)}")


@features.command(short_help="Write a feature of a data set to one .npz or .safetensors file.")
@click.argument("name", metavar="FEATURE")
@dataset_option
@click.option("-o", "target", type=click.Path(path_type=Path), required=True, help="FILE.npz or FILE.safetensors.")
@cache_option
def export(name: str, dataset: str, target: Path, cache: Path) -> None:
    """Write the verified feature of a data set's clips, with their ids, missing clips with reasons, and the full spec.

    \b
    Examples:
      avfuse features export lite:frames --dataset demo -o frames.npz
      avfuse features export lite:mfcc@286a923b --dataset demo -o mfcc.safetensors
    """
    from avfuse.features.cache import FeatureStore
    from avfuse.features.cache.catalog import cached_features, select_feature
    from avfuse.features.cache.maintenance import export as exporting
    from avfuse.features.errors import UsageError
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.report.feature_list import caveat_text, shape_text

    require_file(exporting.check_suffix(target), "-o")
    manifest = load_manifest(cache, dataset)
    feature = select_feature(cached_features(cache, manifest.collection), name, manifest.collection)
    if feature.spec is None:
        raise UsageError(f"no shard of '{feature.name}' can be read: avfuse features verify says why")
    written = exporting.export(FeatureStore(cache, manifest.collection, feature.spec), manifest.clips(), target)
    missing = f", {len(written.missing)} missing (named in the file)" if written.missing else ""
    spec = feature.spec
    click.echo(f"{target}: {feature.name} of {written.clips} clips, {shape_text(spec)}{missing}{caveat_text(spec)}")


@features.command(name="import", short_help="Import features that were computed elsewhere, one .npy file per clip.")
@click.argument("folder", type=click.Path(path_type=Path))
@dataset_option
@click.option("--name", required=True, help="The feature is named imported:NAME.")
@click.option("--modality", type=click.Choice(["video", "audio"]), required=True, help="The modality of the feature.")
@click.option("--description", required=True, metavar="TEXT", help="Network and input, kept with the feature.")
@click.option("--pattern", help="Names of files, with {clip_id} and {stem} (default: {clip_id}.npy, else {stem}.npy).")
@click.option("--reduce", metavar="mean|uniform:N", help="Reduction of each clip's rows (T, D) where T varies.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp16", show_default=True, help="Stored type.")
@cache_option
def import_them(
    folder: Path,
    dataset: str,
    name: str,
    modality: Literal["video", "audio"],
    description: str,
    pattern: str | None,
    reduce: str | None,
    dtype: str,
    cache: Path,
) -> None:
    """Import features that were computed elsewhere. FOLDER holds one .npy file per clip, (T, D) or (D,), such as
    v-iashin's video_features writes. All must have one shape; --reduce reduces a T that varies.

    \b
    Examples:
      avfuse features import i3d/ --dataset clips --name i3d --modality video \\
          --description "I3D RGB, Kinetics-400, video_features 1.0" --pattern '{stem}_rgb.npy' --reduce uniform:8
      avfuse fuse --dataset clips --video imported:i3d
    """
    from tqdm import tqdm

    from avfuse.features.cache.maintenance.imports import ImportDescription, find_files, import_files
    from avfuse.manifests import load_manifest
    from avfuse.pipeline.report.feature_list import shape_text

    import_description = ImportDescription(name, modality, description, reduce, DTYPES[dtype])
    manifest = load_manifest(cache, dataset)
    files, missing = find_files(folder, manifest.clips(), pattern)
    with tqdm(total=2 * len(files), unit="file", desc="import", disable=None) as bar:
        done = import_files(cache, manifest.collection, files, import_description, bar.update)
    there = f", {done.unchanged} were there already" if done.unchanged else ""
    click.echo(
        f"{done.spec.name}@{done.spec.key}: {done.new} clips new{there}, {shape_text(done.spec)} in {done.folder}"
    )
    if done.without_media:
        click.echo(
            f"the media files of {done.without_media} clips are not there: when they appear, import these again",
            err=True,
        )
    if missing:
        click.echo(f"missing, without a file ({len(missing)}): {', '.join(missing)}")
