"""The summary counts what is cached, whatever state shards are in; only rows that no data set lists are removed."""

from pathlib import Path

import pytest
from cached import make_clips, result_of

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.catalog import CachedFeature, cached_features, collections, select_feature, select_features
from avfuse.features.cache.claims import Claims
from avfuse.features.cache.maintenance.remove import plan_unlisted, plan_whole, remove
from avfuse.features.cache.maintenance.summary import feature_status
from avfuse.features.cache.store import ABSENT, DONE
from avfuse.features.clips import Clip
from avfuse.features.compatibility import outdated_reason
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec, ImageInput


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "media", 6)


def only(tmp_path: Path) -> CachedFeature:
    (feature,) = cached_features(tmp_path, "set")
    return feature


def test_clips_are_counted_once_by_the_row_that_counts(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(result_of(spec, clips[:2], clips[2:3], clips[3:5]))
    store.commit(result_of(spec, [*clips[1:2], clips[3]]))
    data_sets = {"all": ClipQuery(clips), "few": ClipQuery(clips[:1])}
    status = feature_status(only(tmp_path), data_sets)
    assert (status.done, status.no_audio, status.failed) == (3, 1, 1)
    assert status.missing == {"all": 1, "few": 0}
    assert status.shards == 2
    assert status.bytes == sum(path.stat().st_size for path in store.paths())


def test_over_a_data_set_its_clips_alone_count_and_are_named(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip]
) -> None:
    FeatureStore(tmp_path, "set", spec).commit(result_of(spec, clips[:2], clips[2:3], clips[3:5], attempts=2))
    clips[1].path.write_bytes(b"replaced")
    query = ClipQuery([clips[5], clips[4], clips[1], Clip("clip-0", clips[0].path, 0.0, 1.0), clips[2]])
    status = feature_status(only(tmp_path), {"some": query}, over="some")
    assert (status.done, status.no_audio, status.failed, status.missing) == (0, 1, 1, {"some": 3})
    assert status.missing_clips == ["clip-5", "clip-1", "clip-0"]
    assert list(status.failures) == ["clip-4"]
    assert status.failures["clip-4"].attempts == 2


def test_a_damaged_shard_is_named_and_the_others_counted(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(result_of(spec, clips[:2]))
    for damaged in (store.commit(result_of(spec, clips[2:3])), store.commit(result_of(spec, clips[3:4]))):
        content = bytearray(damaged.read_bytes())
        content[60] ^= 1
        damaged.write_bytes(content)
    status = feature_status(only(tmp_path), {"all": ClipQuery(clips)})
    assert status.done == 2
    assert status.missing == {"all": 4}
    assert status.shards == 3
    assert all("hash" in reason for reason in status.unreadable.values())
    assert len(status.unreadable) == 2


def test_a_feature_of_damaged_shards_alone_is_still_listed(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip]
) -> None:
    path = FeatureStore(tmp_path, "set", spec).commit(result_of(spec, clips))
    path.write_bytes(b"")
    feature = only(tmp_path)
    status = feature_status(feature, {})
    assert feature.spec is None
    assert feature.name == spec.folder
    assert list(status.unreadable) == [path]
    assert select_feature([feature], spec.folder, "set") == feature


def test_what_lies_beside_collections_is_none(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    FeatureStore(tmp_path, "set", spec).commit(result_of(spec, clips))
    for name in ("manifests", "media/demo", "elsewhere/notes"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert collections(tmp_path) == ["set"]
    with pytest.raises(UsageError, match="there is no cache in"):
        collections(tmp_path / "nowhere")


def test_features_are_found_by_name_or_key(tmp_path: Path, clips: list[Clip]) -> None:
    first, second = (resolve(["lite:frames"], sampling=sampling)[0] for sampling in ("uniform:1", "uniform:2"))
    for spec in (first, second):
        FeatureStore(tmp_path, "set", spec).commit(result_of(spec, clips[:1]))
    here = cached_features(tmp_path, "set")
    assert len(select_features(here, ["lite:frames"], "set")) == 2
    assert select_feature(here, f"lite:frames@{first.key}", "set").spec == first
    with pytest.raises(UsageError, match=f"pick one of .*lite:frames@{first.key}"):
        select_feature(here, "lite:frames", "set")
    with pytest.raises(UsageError, match="features list"):
        select_features(here, ["lite:mfcc"], "set")


def test_what_another_revision_made_is_outdated(spec: FeatureSpec) -> None:
    assert outdated_reason(spec) is None
    assert isinstance(spec.input, ImageInput)
    assert spec.model is not None
    older = spec.input.reader.model_copy(update={"revision": 1})
    for update, named in (
        ({"input": spec.input.model_copy(update={"reader": older})}, "reader pyav of revision 1"),
        ({"input": spec.input.model_copy(update={"revision": 1})}, "audio images of revision 1"),
        ({"model": spec.model.model_copy(update={"revision": 99})}, "backbone lite of revision 99"),
    ):
        reason = outdated_reason(spec.model_copy(update=update))
        assert reason is not None
        assert named in reason
    (bank,) = resolve(["audio:fbank"])
    assert outdated_reason(bank) is None
    assert outdated_reason(bank.model_copy(update={"input": bank.input.model_copy(update={"revision": 0})})) is not None


def test_a_backbone_that_is_not_here_is_not_outdated(spec: FeatureSpec) -> None:
    assert spec.model is not None
    for name in ("somebodys_own", "timm:none"):
        assert (
            outdated_reason(spec.model_copy(update={"model": spec.model.model_copy(update={"backbone": name})})) is None
        )


# --- removal ---


def test_a_feature_goes_whole_and_alone(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(result_of(spec, clips[:3], clips[3:4]))
    store.commit(result_of(spec, clips[2:3], failed=clips[4:5])).write_bytes(b"damaged")
    (store.folder / ".left.tmp").touch()
    (store.folder / "set-aside").mkdir()
    (store.folder / "set-aside" / "shard-x.h5").touch()
    other = spec.model_copy(update={"name": "lite:waveplot"})
    FeatureStore(tmp_path, "set", other).commit(result_of(other, clips))
    planned = plan_whole(select_feature(cached_features(tmp_path, "set"), "lite:mfcc", "set"))
    assert (planned.clips, len(planned.shards)) == (4, 2)
    assert len(store.paths()) == 2
    remove(tmp_path, "set", [planned])
    assert not store.folder.exists()
    assert (FeatureStore(tmp_path, "set", other).lookup(clips).outcome == DONE).all()


def test_what_avfuse_did_not_write_stays(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    store.commit(result_of(spec, clips))
    (store.folder / "thesis.txt").touch()
    remove(tmp_path, "set", [plan_whole(only(tmp_path))])
    assert [path.name for path in store.folder.iterdir()] == ["thesis.txt"]


def test_nothing_goes_while_a_run_is_at_work(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    path = store.commit(result_of(spec, clips))
    _, claim = Claims(tmp_path, "set").acquire([1])
    assert claim is not None
    with pytest.raises(UsageError, match="a run is extracting clips"):
        remove(tmp_path, "set", [plan_whole(only(tmp_path))])
    assert path.exists()
    claim.release()
    remove(tmp_path, "set", [plan_whole(only(tmp_path))])
    assert not path.exists()


def test_rows_that_no_data_set_lists_go(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    store = FeatureStore(tmp_path, "set", spec)
    part = Clip("clip-2", clips[2].path, 0.5, 1.5)
    store.commit(result_of(spec, [*clips[:2], part], clips[3:4], clips[4:5], value=1))
    store.commit(result_of(spec, clips[5:], value=9))
    kept = store.commit(result_of(spec, clips[2:3], value=7))
    listed = [ClipQuery(clips[1:3]), ClipQuery(clips[4:5])]
    planned = plan_unlisted(only(tmp_path), listed)
    assert planned is not None
    assert (planned.clips, len(planned.shards), planned.whole) == (4, 2, False)
    remove(tmp_path, "set", [planned], listed)
    again = FeatureStore(tmp_path, "set", spec)
    assert kept in again.paths()
    assert again.load(clips[1:3]).data[:, 0].tolist() == [2, 7]
    assert sorted(again.rows().clip_id.tolist()) == [b"clip-1", b"clip-2", b"clip-4"]
    assert again.lookup([part]).outcome[0] == ABSENT
    assert plan_unlisted(only(tmp_path), listed) is None
