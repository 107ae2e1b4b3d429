"""`avfuse features`: what is in the cache, whether it is whole, and ways in and out of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from avfuse.pipeline.cli.options import cache_option
from avfuse.pipeline.output_paths import require_file

if TYPE_CHECKING:
    from avfuse.features.cache.catalog import CachedFeature
    from avfuse.features.cache.maintenance.imports import Stored
    from avfuse.features.cache.maintenance.summary import FeatureStatus
    from avfuse.features.spec import FeatureSpec
    from avfuse.manifests import Manifest

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


@features.command(name="list", short_help="What is cached, of how many clips, and what is missing.")
@click.option("--dataset", metavar="D", help="Count over this data set's clips alone.")
@click.option("--missing", is_flag=True, help="Name the clips that are missing, and why others failed.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs to read.")
@cache_option
def list_them(dataset: str | None, missing: bool, as_json: bool, cache: Path) -> None:
    """Every cached feature: clips by outcome, clips that are missing, size, shape, and where it comes from.

    Without --dataset every clip with a row is counted, and for each data set of the collection how many of its clips
    have none.
    """
    from avfuse.features.cache.catalog import cached_features, collections
    from avfuse.features.cache.clip_query import ClipQuery
    from avfuse.features.cache.maintenance.summary import feature_status
    from avfuse.features.errors import UsageError

    if missing and dataset is None:
        raise UsageError("--missing needs to know of which data set: add --dataset")
    known, manifests = collections(cache), _manifests(cache, dataset)
    every: list[FeatureStatus] = []
    for collection in known if dataset is None else [manifests[0].collection]:
        data_sets = {each.name: ClipQuery(each.clips()) for each in manifests if each.collection == collection}
        listed = [
            feature_status(feature, data_sets, dataset)
            for feature in cached_features(cache, collection)
            if feature.paths()
        ]
        every += listed
        if listed and not as_json:
            of = ", ".join(f"{name} ({len(asked)} clips)" for name, asked in data_sets.items()) or "none"
            click.echo(f"{collection}; data sets: {of}")
            _print_listed(listed, missing)
    if as_json:
        entries = [_as_json(each, dataset) for each in every]
        click.echo(json.dumps({"cache": str(cache), "features": entries}, indent=2))
    elif not every:
        click.echo(f"no features in {cache}" + (f" for '{dataset}'" if dataset else "") + ": avfuse extract makes some")


@features.command(short_help="Prove every shard, and put right what is wrong.")
@click.argument("names", nargs=-1, metavar="[FEATURE]...")
@click.option("--dataset", metavar="D", help="Only the features of this data set's collection.")
@click.option("--repair", is_flag=True, help="Set damaged shards aside, drop duplicate rows, clear what runs left.")
@cache_option
def verify(names: tuple[str, ...], dataset: str | None, repair: bool, cache: Path) -> None:
    """Read every shard whole: its hash, its header against what HDF5 says, its key, its numbers; then what is there
    twice, and what does not belong. One line for each finding; exit code 1 where something was found and not repaired.

    Damaged shards are moved to a folder set-aside/ beside them, with the reason, and the next extract computes their
    clips again. Repairing is safe while extractions run.
    """
    from tqdm import tqdm

    from avfuse.features.cache.catalog import cached_features
    from avfuse.features.cache.maintenance import verify as verifying

    chosen = _chosen(cache, names, dataset)
    shards = [
        path
        for collection, picked in chosen.items()
        for feature in (cached_features(cache, collection) if picked is None else picked)
        for path in feature.paths()
    ]
    sizes = [path.stat().st_size for path in shards]
    found = repaired = 0
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="verify", disable=None) as bar:
        for collection, picked in chosen.items():
            for finding in verifying.verify(cache, collection, picked, repair, bar.update):
                found += 1
                repaired += bool(finding.repaired)
                done = f" ({finding.repaired})" if finding.repaired else ""
                tqdm.write(f"{finding.path}: {finding.problem}{done}")
    result = f"{found} found, {repaired} repaired" if found else "nothing wrong"
    count = _count(len({path.parent for path in shards}), "feature")
    click.echo(f"{count}, {_count(len(shards), 'shard')}, {_size(sum(sizes))} read: {result}")
    if found > repaired:
        if not repair:
            click.echo("avfuse features verify --repair puts right what can be", err=True)
        raise click.exceptions.Exit(1)


@features.command(short_help="Remove features, or what no data set can ask for.")
@click.argument("names", nargs=-1, metavar="[FEATURE]...")
@click.option("--unreachable", is_flag=True, help="What this version cannot make any more, and rows no data set lists.")
@dataset_option
@click.option("--yes", is_flag=True, help="Do it; without, what would go is only shown.")
@cache_option
def remove(names: tuple[str, ...], unreachable: bool, dataset: str, yes: bool, cache: Path) -> None:
    """Remove features of a data set's collection for good, or with --unreachable what nobody can ask for: features of a
    reader, representation, filter bank or backbone that has another revision now, and rows of clips that no data set of
    the collection lists.

    \b
    Examples:
      avfuse features remove lite:frames@d5438abd --dataset demo
      avfuse features remove --unreachable --dataset demo --yes
    """
    from avfuse.features.cache.catalog import cached_features, select_feature
    from avfuse.features.cache.clip_query import ClipQuery
    from avfuse.features.cache.maintenance import remove as removal
    from avfuse.features.errors import UsageError
    from avfuse.manifests import load_manifest

    if bool(names) == unreachable:
        raise UsageError("name the features to remove, or say --unreachable")
    collection = load_manifest(cache, dataset).collection
    here = cached_features(cache, collection)
    listed: list[ClipQuery] = []
    if unreachable:
        sharing = [each for each in _manifests(cache, None) if each.collection == collection]
        listed = [ClipQuery(each.clips()) for each in sharing]
        removals = _unreachable(here, listed)
    else:
        chosen = dict.fromkeys(select_feature(here, name, collection) for name in names)
        removals = [removal.plan_whole(feature) for feature in chosen]
    for each in removals:
        rows = "all of it" if each.whole else _count(each.clips, "clip")
        why = f" ({each.reason})" if each.reason else ""
        click.echo(f"{each.feature.name}: {rows}{why}, {_count(len(each.shards), 'shard')}, {_size(each.bytes)}")
    if not removals:
        click.echo("nothing to remove")
        return
    total = (
        f"{_count(len(removals), 'feature')}, {_count(sum(len(each.shards) for each in removals), 'shard')}, "
        f"rows of {_count(sum(each.clips for each in removals), 'clip')}, {_size(sum(each.bytes for each in removals))}"
    )
    if not yes:
        click.echo(f"would remove from collection '{collection}': {total}; add --yes to do it")
        return
    removal.remove(cache, collection, removals, listed)
    click.echo(f"removed from collection '{collection}': {total}")


@features.command(short_help="A feature of a data set as one .npz or .safetensors file.")
@click.argument("name", metavar="FEATURE")
@dataset_option
@click.option("-o", "target", type=click.Path(path_type=Path), required=True, help="FILE.npz or FILE.safetensors.")
@cache_option
def export(name: str, dataset: str, target: Path, cache: Path) -> None:
    """Write a feature of a data set's clips, verified, with their ids, who is missing and why, and the full spec.

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

    require_file(exporting.check_suffix(target), "-o")
    manifest = load_manifest(cache, dataset)
    feature = select_feature(cached_features(cache, manifest.collection), name, manifest.collection)
    if feature.spec is None:
        raise UsageError(f"no shard of '{feature.name}' can be read: avfuse features verify says why")
    written = exporting.export(FeatureStore(cache, manifest.collection, feature.spec), manifest.clips(), target)
    missing = f", {len(written.missing)} missing (named in the file)" if written.missing else ""
    click.echo(
        f"{target}: {feature.name} of {written.clips} clips, {_kind(feature.spec)}{missing}{_mark(feature.spec)}"
    )


@features.command(name="import", short_help="Bring features that were computed elsewhere, one .npy file per clip.")
@click.argument("folder", type=click.Path(path_type=Path))
@dataset_option
@click.option("--name", required=True, help="The feature will be called imported:NAME.")
@click.option("--modality", type=click.Choice(["video", "audio"]), required=True, help="What it stands for.")
@click.option("--description", required=True, metavar="TEXT", help="Which network gave it, from what: kept with it.")
@click.option("--pattern", help="How files are called: {clip_id} and {stem} (default: {clip_id}.npy, else {stem}.npy).")
@click.option("--reduce", metavar="mean|uniform:N", help="What becomes of each clip's rows (T, D) where T varies.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp16", show_default=True, help="How they are kept.")
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
    """Bring features into the cache that were computed elsewhere: FOLDER holds one .npy file per clip, (T, D) or (D,),
    such as v-iashin's video_features writes. All must have one shape; what varies is reduced with --reduce.

    \b
    Examples:
      avfuse features import i3d/ --dataset clips --name i3d --modality video \\
          --description "I3D RGB, Kinetics-400, video_features 1.0" --pattern '{stem}_rgb.npy' --reduce uniform:8
      avfuse fuse --dataset clips --video imported:i3d
    """
    from tqdm import tqdm

    from avfuse.features.cache.maintenance.imports import ImportDescription, find_files, import_files
    from avfuse.manifests import load_manifest

    described = ImportDescription(name, modality, description, reduce, DTYPES[dtype])
    manifest = load_manifest(cache, dataset)
    files, missing = find_files(folder, manifest.clips(), pattern)
    with tqdm(total=2 * len(files), unit="file", desc="import", disable=None) as bar:
        done = import_files(cache, manifest.collection, files, described, bar.update)
    there = f", {done.there} were there already" if done.there else ""
    click.echo(f"{done.spec.name}@{done.spec.key}: {done.new} clips new{there}, {_kind(done.spec)} in {done.folder}")
    if done.without_media:
        click.echo(
            f"the media files of {done.without_media} clips are not there: when they appear, import these again",
            err=True,
        )
    if missing:
        click.echo(f"missing, without a file ({len(missing)}): {', '.join(missing)}")


def _manifests(cache: Path, dataset: str | None) -> "list[Manifest]":
    """A data set's manifest alone, or all there are."""
    from avfuse.manifests import list_manifests, load_manifest

    return [load_manifest(cache, name) for name in (list_manifests(cache) if dataset is None else [dataset])]


def _chosen(cache: Path, names: Sequence[str], dataset: str | None) -> "dict[str, list[CachedFeature] | None]":
    """The named features by collection; None for all of one."""
    from avfuse.features.cache.catalog import cached_features, collections, select_features

    where = collections(cache) if dataset is None else [_manifests(cache, dataset)[0].collection]
    if not names:
        return dict.fromkeys(where)
    here = {collection: cached_features(cache, collection) for collection in where}
    everything = [feature for each in here.values() for feature in each]
    select_features(everything, names, ", ".join(where))
    chosen: dict[str, list[CachedFeature] | None] = {}
    for collection, each in here.items():
        chosen[collection] = [feature for feature in each if any(map(feature.matches, names))]
    return {collection: each for collection, each in chosen.items() if each}


def _unreachable(here: "Sequence[CachedFeature]", listed: "Sequence[Any]") -> "list[Any]":
    from avfuse.features.cache.maintenance.remove import plan_unlisted, plan_whole
    from avfuse.features.compatibility import outdated_reason

    removals = []
    for feature in here:
        if feature.spec is None:
            if feature.paths():
                click.echo(f"{feature.name} cannot be read and is left alone: avfuse features verify", err=True)
        elif reason := outdated_reason(feature.spec):
            removals.append(plan_whole(feature, reason))
        elif planned := plan_unlisted(feature, listed):
            removals.append(planned)
    return removals


def _print_listed(listed: "Sequence[FeatureStatus]", missing: bool) -> None:
    width = max(len(each.feature.name) for each in listed)
    for each in listed:
        spec = each.feature.spec
        size = f"{_size(each.bytes)} in {_count(each.shards, 'shard')}"
        if spec is None:
            click.echo(f"  {each.feature.name:<{width}}  cannot be read  {size}")
        else:
            absent = ", ".join(f"{count} of {name}" for name, count in each.missing.items()) or "no data set"
            click.echo(
                f"  {each.feature.name:<{width}}  {each.done:>6} done  {each.no_audio:>4} without audio"
                f"  {each.failed:>4} failed  missing: {absent}  {size}  {_kind(spec)}  {_source(spec)}{_mark(spec)}"
            )
        for path, reason in each.unreadable.items():
            click.echo(f"    {path.name}: {reason} (avfuse features verify --repair)")
        if missing and each.missing_clips:
            click.echo(f"    missing ({len(each.missing_clips)}): {', '.join(each.missing_clips)}")
        for clip_id, failure in each.failures.items() if missing else ():
            click.echo(
                f"    failed: {clip_id}: {failure.stage}: {failure.message} ({_count(failure.attempts, 'attempt')})"
            )


def _as_json(listed: "FeatureStatus", dataset: str | None) -> dict[str, Any]:
    from avfuse.features.compatibility import outdated_reason

    spec = listed.feature.spec
    entry: dict[str, Any] = {
        "collection": listed.feature.collection,
        "name": listed.feature.name if spec is None else spec.name,
        "key": listed.feature.key,
        "folder": str(listed.feature.folder),
        "bytes": listed.bytes,
        "shards": listed.shards,
        "unreadable": {str(path): reason for path, reason in listed.unreadable.items()},
    }
    if spec is None:
        return entry
    entry |= {
        "done": listed.done,
        "no_audio": listed.no_audio,
        "failed": listed.failed,
        "missing": listed.missing,
        "untrained": spec.untrained,
        "outdated": outdated_reason(spec),
        "spec": spec.model_dump(mode="json"),
    }
    if dataset is not None:
        entry["missing_clips"] = listed.missing_clips
        entry["failed_clips"] = {
            clip_id: {"reason": f"{failure.stage}: {failure.message}", "attempts": failure.attempts}
            for clip_id, failure in listed.failures.items()
        }
    return entry


def _kind(spec: "FeatureSpec") -> str:
    return f"{spec.output} {'x'.join(map(str, spec.shape))} {spec.dtype}"


def _source(spec: "FeatureSpec") -> str:
    """Where a feature comes from."""
    from avfuse.features.spec import ImportedInput

    if isinstance(spec.input, ImportedInput):
        return f"imported ({spec.input.description})"
    if spec.model is None:
        return "pictures" if spec.output == "image" else "filter bank"
    return f"{spec.model.backbone} {spec.model.checkpoint[:HASH_DIGITS]}"


def _mark(spec: "FeatureSpec") -> str:
    """What to know of a feature before one uses it."""
    from avfuse.features.compatibility import is_registered, outdated_reason

    marks = ["untrained weights"] if spec.untrained else []
    if reason := outdated_reason(spec):
        marks.append(f"cannot be made any more: {reason}")
    if spec.model is not None and not is_registered(spec.model):
        marks.append(f"cannot be made here: no backbone is called {spec.model.backbone}")
    return f"  ({'; '.join(marks)})" if marks else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
