"""Whatever is wrong with a cache is found and named, and repairing loses nothing that is not there twice."""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from cached import make_clips, result_of, touch

import avfuse.features.cache.store
from avfuse.features.cache import DamagedShard, FeatureStore
from avfuse.features.cache.catalog import cached_features
from avfuse.features.cache.claims import Claims
from avfuse.features.cache.maintenance.verify import Finding, verify, verify_shard
from avfuse.features.cache.shard_reader import read_software
from avfuse.features.cache.shard_writer import shard_content
from avfuse.features.cache.store import ABSENT, DONE, FAILED, NO_SOUND
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec
from avfuse.stages.extract.plan import plan_extraction

FORMAT_1 = Path(__file__).parents[1] / "formats" / "1"


@pytest.fixture
def spec() -> FeatureSpec:
    return resolve(["lite:mfcc"])[0].model_copy(update={"shape": (40,)})


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "media")


@pytest.fixture
def store(tmp_path: Path, spec: FeatureSpec) -> FeatureStore:
    return FeatureStore(tmp_path, "set", spec)


@pytest.fixture
def shard(store: FeatureStore, clips: list[Clip]) -> Path:
    return store.commit(result_of(store.spec, clips[:3], clips[3:4], clips[4:]))


def found(tmp_path: Path, repair: bool = False) -> list[Finding]:
    return list(verify(tmp_path, "set", repair=repair))


def planned(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> list[str]:
    return [job.clip.clip_id for job in plan_extraction([FeatureStore(tmp_path, "set", spec)], clips).jobs]


def named_by_hash(folder: Path, content: bytes) -> Path:
    """A file that is what its name says, whoever wrote it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shard-00000000-{xxhash.xxh3_128_hexdigest(content)}.h5"
    path.write_bytes(content)
    return path


def test_a_whole_cache_is_clean(tmp_path: Path, shard: Path) -> None:
    assert found(tmp_path) == []
    assert found(tmp_path, repair=True) == []
    assert shard.is_file()


def test_shards_of_the_first_format_are_clean(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1, tmp_path / "set")
    assert found(tmp_path) == []


def test_pictures_are_verified_too(tmp_path: Path, clips: list[Clip]) -> None:
    (spec,) = resolve(["image:mfcc"], size=(8, 8))
    path = FeatureStore(tmp_path, "set", spec).commit(result_of(spec, clips))
    assert found(tmp_path) == []
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert [finding.problem for finding in found(tmp_path)] == ["its bytes do not match its name"]


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, shard: Path) -> None:
    content = shard.read_bytes()
    with h5py.File(shard) as file:
        offsets = {name: file[name].id.get_offset() for name in file}
    regions = {
        "title": 3, "proof": 30, "description": 200, "padding": 4090, "signature": 4097,
        "attribute": content.index(b'"float16"', 4096), **{name: at + 1 for name, at in offsets.items()},
        "end": len(content) - 1,
    }  # fmt: skip
    anywhere = np.random.default_rng(0).integers(0, len(content), 150).tolist()
    for at in (*regions.values(), *anywhere):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        shard.write_bytes(flipped)
        with pytest.raises(DamagedShard):
            verify_shard(shard)
    shard.write_bytes(content)
    verify_shard(shard)


def test_a_shard_cut_anywhere_is_found(tmp_path: Path, shard: Path) -> None:
    content = shard.read_bytes()
    lengths = [0, 1, 11, 4095, 4096, len(content) - 1, *np.random.default_rng(1).integers(0, len(content), 40).tolist()]
    for length in lengths:
        shard.write_bytes(content[:length])
        with pytest.raises(DamagedShard):
            verify_shard(shard)
    shard.write_bytes(content + b"\0")
    with pytest.raises(DamagedShard):
        verify_shard(shard)


def test_a_damaged_shard_is_set_aside_and_its_clips_are_planned_again(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], shard: Path
) -> None:
    other = store.commit(result_of(spec, clips[4:], value=9))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert [finding.path for finding in found(tmp_path)] == [shard]
    assert shard.is_file()
    (finding,) = found(tmp_path, repair=True)
    assert "set-aside" in finding.repaired
    assert not shard.exists()
    aside = store.folder / "set-aside" / shard.name
    assert aside.read_bytes() == content
    assert "its bytes do not match its name" in (store.folder / "set-aside" / f"{shard.name}.reason.txt").read_text()
    assert planned(tmp_path, spec, clips) == ["clip-0", "clip-1", "clip-2", "clip-3"]
    assert FeatureStore(tmp_path, "set", spec).load(clips[4:]).data[0, 0] == 9
    assert other.is_file()
    assert found(tmp_path) == []


def test_two_files_of_one_name_are_both_kept_aside(tmp_path: Path, store: FeatureStore, clips: list[Clip]) -> None:
    for damage in (b"one", b"two"):
        path = store.commit(result_of(store.spec, clips))
        path.write_bytes(damage)
        found(tmp_path, repair=True)
    kept = {path.read_bytes() for path in (store.folder / "set-aside").glob("*.h5")}
    assert kept == {b"one", b"two"}


def test_rows_that_are_not_finite_are_planned_again_and_the_others_stay(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    result = result_of(spec, clips[:3], clips[3:4], clips[4:])
    result.data[1][7] = np.nan
    result.data[2][0] = np.inf
    path = store.commit(result)
    (finding,) = found(tmp_path)
    assert finding.path == path
    assert "2 rows, for example of 'clip-1', with values that are not finite" in finding.problem
    found(tmp_path, repair=True)
    assert (store.folder / "set-aside" / path.name).is_file()
    again = FeatureStore(tmp_path, "set", spec).lookup(clips)
    assert again.outcome.tolist() == [DONE, ABSENT, ABSENT, NO_SOUND, FAILED]
    assert found(tmp_path) == []


def test_a_shard_in_another_features_folder_is_set_aside(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], shard: Path
) -> None:
    other = spec.model_copy(update={"view": "h", "name": "lite:mfcc:h"})
    theirs = FeatureStore(tmp_path, "set", other).commit(result_of(other, clips[:2]))
    stray = theirs.rename(store.folder / theirs.name)
    problems = {finding.path: finding.problem for finding in found(tmp_path)}
    assert f"lite:mfcc:h@{other.key}" in problems[stray]
    found(tmp_path, repair=True)
    assert [path.name for path in FeatureStore(tmp_path, "set", spec).paths()] == [shard.name]
    assert planned(tmp_path, spec, clips[:4]) == []


def test_a_key_that_is_not_its_specs_is_found(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    class Forged(FeatureSpec):
        @property
        def key(self) -> str:
            return "00000000"

    forged = Forged.model_validate(spec.model_dump())
    FeatureStore(tmp_path, "set", forged).commit(result_of(forged, clips))
    (finding,) = found(tmp_path)
    assert finding.problem == f"its spec has the key {spec.key}, its header says 00000000"


def test_a_header_that_hdf5_contradicts_is_found(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    other = spec.model_copy(update={"compute": "float16"})
    header, _ = shard_content(result_of(spec, clips))
    _, image = shard_content(result_of(other, clips))
    path = named_by_hash(tmp_path / "set" / spec.folder, header + image)
    with pytest.raises(DamagedShard, match="attribute"):
        verify_shard(path)


def test_rows_elsewhere_than_the_header_says_are_found(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    header, image = shard_content(result_of(spec, clips))
    title, described = header.split(b"\n")[:2]
    said = json.loads(described)
    said["parts"]["data"]["offset"] -= 2
    changed = json.dumps(said, separators=(",", ":")).encode()
    title = title.replace(xxhash.xxh3_128_hexdigest(described).encode(), xxhash.xxh3_128_hexdigest(changed).encode())
    header = (title + b"\n" + changed + b"\n").ljust(len(header), b"\n")
    path = named_by_hash(tmp_path / "set" / spec.folder, header + image)
    with pytest.raises(DamagedShard, match="not where its header says"):
        verify_shard(path)


def test_rows_of_another_shape_than_the_specs_are_found(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    path = forged_hdf5(tmp_path, spec, clips, lambda file: (file.pop("data"), file.create_dataset("data", data=[1.0])))
    with pytest.raises(DamagedShard, match="its rows are"):
        verify_shard(path)


def forged_hdf5(tmp_path: Path, spec: FeatureSpec, clips: list[Clip], change: Callable[[h5py.File], object]) -> Path:
    """A shard of the first format, which is all HDF5, changed and named by its new hash."""
    scratch = tmp_path / f"{uuid.uuid4().hex}.h5"
    scratch.write_bytes(shard_content(result_of(spec, clips))[1])
    with h5py.File(scratch, "r+") as file:
        change(file)
    return named_by_hash(tmp_path / "set" / spec.folder, scratch.read_bytes())


def _objects(file: h5py.File) -> None:
    del file["clip_id"]
    file.create_dataset("clip_id", data=["a", "b"], dtype=h5py.string_dtype())


def _references(file: h5py.File) -> None:
    del file["data"]
    file.create_dataset("data", data=[file["media"].ref], dtype=h5py.ref_dtype)


def _external_link(file: h5py.File) -> None:
    del file["data"]
    file["data"] = h5py.ExternalLink("/etc/passwd", "data")


def _soft_link(file: h5py.File) -> None:
    file.move("data", "elsewhere")
    file["data"] = h5py.SoftLink("/elsewhere")


def _external_storage(file: h5py.File) -> None:
    del file["data"]
    file.create_dataset("data", (5, 40), "<f2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File) -> None:
    del file["data"]
    layout = h5py.VirtualLayout((5, 40), "<f2")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "data", (5, 40))
    file.create_virtual_dataset("data", layout)


def _another_filter(file: h5py.File) -> None:
    del file["data"]
    file.create_dataset("data", data=np.ones((5, 40), "<f2"), compression="lzf")


def _never_written(file: h5py.File) -> None:
    del file["data"]
    file.create_dataset("data", (5, 40), "<f2")


def _half_written(file: h5py.File) -> None:
    del file["data"]
    file.create_dataset("data", (5, 40), "<f2", chunks=(1, 40))[0] = 1


NO_PLAIN_DATA = {
    _objects: "holds objects",
    _references: "holds objects",
    _external_link: "link to another file",
    _soft_link: "link to another file",
    _external_storage: "lies in another file",
    _virtual: "lies in another file",
    _another_filter: "compressed by a filter",
    _never_written: "never written",
    _half_written: "never written",
}


@pytest.mark.parametrize("change", NO_PLAIN_DATA)
def test_what_is_no_plain_data_is_refused(
    tmp_path: Path, spec: FeatureSpec, clips: list[Clip], change: Callable[[h5py.File], None]
) -> None:
    path = forged_hdf5(tmp_path, spec, clips, change)
    with pytest.raises(DamagedShard, match=NO_PLAIN_DATA[change]):
        verify_shard(path)


def test_a_spec_of_another_version_is_told_and_left_alone(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    class Later(FeatureSpec):
        colour: str = "blue"

    later = Later.model_validate(spec.model_dump())
    path = FeatureStore(tmp_path, "set", later).commit(result_of(later, clips))
    problems = {finding.path: finding for finding in found(tmp_path, repair=True)}
    assert "another version" in problems[path].problem
    assert path.is_file()


# --- rows that are there twice ---


def test_duplicates_are_dropped_and_the_row_that_counts_stays(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    """Overlapping shards, as two runs leave them that did not know of each other."""
    store.commit(result_of(spec, clips[:3], clips[3:4], value=10))
    store.commit(result_of(spec, clips[1:4], clips[4:], value=20))
    store.commit(result_of(spec, clips[:1], value=30))
    before = FeatureStore(tmp_path, "set", spec).load(clips)
    software = read_software(store.paths()[0])
    findings = found(tmp_path)
    assert findings
    assert all("superseded by another row for the same clip and file" in finding.problem for finding in findings)
    assert len(store.paths()) == 3
    assert all(finding.repaired for finding in found(tmp_path, repair=True))
    again = FeatureStore(tmp_path, "set", spec)
    after = again.load(clips)
    np.testing.assert_array_equal(before.data, after.data)
    assert before.missing == after.missing
    assert len(again.rows()) == 5
    assert again.lookup(clips).extra == 0
    assert read_software(again.paths()[0]) == software
    assert found(tmp_path) == []


@pytest.mark.parametrize("earlier", [True, False])
def test_of_a_touched_file_the_row_of_the_later_time_stays(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], earlier: bool
) -> None:
    store.commit(result_of(spec, clips[:2], value=1))
    touch(clips[0].path, 10 if earlier else -10)
    store.commit(result_of(spec, clips[:1], value=50))
    found(tmp_path, repair=True)
    again = FeatureStore(tmp_path, "set", spec)
    assert again.load(clips[:2]).data[:, 0].tolist() == ([1, 2] if earlier else [50, 2])
    assert len(again.rows()) == 2


def test_rows_of_a_replaced_file_are_no_duplicates(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    store.commit(result_of(spec, clips))
    clips[0].path.write_bytes(b"other" * 50)
    store.commit(result_of(spec, [clips[0], Clip("clip-1", clips[1].path, 0.5, 1.0)]))
    assert found(tmp_path) == []


def test_a_failure_that_was_tried_again_is_history(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    store.commit(result_of(spec, failed=clips[:2]))
    store.commit(result_of(spec, clips[:1], failed=clips[1:2], attempts=2))
    assert found(tmp_path) == []
    store.commit(result_of(spec, failed=clips[1:2], attempts=2, value=1, done=clips[2:3]))
    assert [finding.problem for finding in found(tmp_path, repair=True)] != []
    again = FeatureStore(tmp_path, "set", spec).lookup(clips[:3])
    assert again.outcome.tolist() == [DONE, FAILED, DONE]
    assert again.attempts.tolist() == [0, 2, 0]
    assert found(tmp_path) == []


def test_a_row_that_is_not_finite_outweighs_nothing(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    store.commit(result_of(spec, clips[:1], value=5))
    broken = result_of(spec, clips[:1])
    broken.data[0][:] = np.nan
    store.commit(broken)
    found(tmp_path, repair=True)
    assert FeatureStore(tmp_path, "set", spec).load(clips[:1]).data[0, 0] == 5


def test_a_rewriting_that_was_interrupted_is_finished(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    """The new shard is there, the old one still too."""
    store.commit(result_of(spec, clips, value=1))
    store.commit(result_of(spec, clips[2:], value=3))
    before = FeatureStore(tmp_path, "set", spec).load(clips).data
    for _ in range(3):
        found(tmp_path, repair=True)
        assert found(tmp_path) == []
        np.testing.assert_array_equal(FeatureStore(tmp_path, "set", spec).load(clips).data, before)


def test_only_one_repairs_at_a_time(tmp_path: Path, shard: Path) -> None:
    with Claims(tmp_path, "set").exclusive_maintenance(), pytest.raises(UsageError, match="wait for it"):
        found(tmp_path, repair=True)


# --- what lies between the shards ---


def test_a_missing_or_wrong_description_is_written_again(tmp_path: Path, spec: FeatureSpec, shard: Path) -> None:
    described = shard.parent / "spec.json"
    right = described.read_text()
    for wrong in (None, "{}", "no json", spec.model_copy(update={"dtype": "float32"}).model_dump_json()):
        described.unlink()
        if wrong is not None:
            described.write_text(wrong)
        assert [finding.path for finding in found(tmp_path)] == [described]
        assert [finding.repaired for finding in found(tmp_path, repair=True)] == ["written again"]
        assert described.read_text() == right


def test_a_temporary_file_goes_unless_a_living_run_may_write_it(tmp_path: Path, shard: Path) -> None:
    young, old = shard.parent / ".young.tmp", shard.parent / ".old.tmp"
    young.touch()
    old.touch()
    touch(old, 7200)
    _, claim = Claims(tmp_path, "set").acquire([1, 2])
    assert claim is not None
    assert [finding.path for finding in found(tmp_path)] == [old]
    assert [finding.path for finding in found(tmp_path, repair=True)] == [old]
    assert young.exists()
    assert not old.exists()
    claim.release()
    assert [finding.path for finding in found(tmp_path, repair=True)] == [young]
    assert not young.exists()
    assert found(tmp_path) == []


def test_what_a_dead_run_claimed_goes(tmp_path: Path, shard: Path) -> None:
    claims = Claims(tmp_path, "set")
    _, living = claims.acquire([1])
    assert living is not None
    left = [claims.folder / name for name in ("dead.claim", "dead.lock", "alone.lock", "unlocked.claim")]
    for path in left:
        path.touch()
    assert {finding.path for finding in found(tmp_path)} == set(left)
    assert all(path.exists() for path in left)
    found(tmp_path, repair=True)
    assert not any(path.exists() for path in left)
    assert claims.claimed_ids().tolist() == [1]
    living.release()
    assert found(tmp_path) == []


def test_what_does_not_belong_is_named_and_left(tmp_path: Path, shard: Path) -> None:
    strangers = [shard.parent / "notes.txt", tmp_path / "set" / "notes", tmp_path / "set" / ".claims" / "notes.txt"]
    strangers[1].mkdir()
    strangers[2].parent.mkdir()
    for path in strangers:
        path.exists() or path.touch()
    assert {finding.path for finding in found(tmp_path)} == set(strangers)
    assert not any(finding.repaired for finding in found(tmp_path, repair=True))
    assert all(path.exists() for path in strangers)


def test_an_empty_feature_folder_goes(tmp_path: Path, spec: FeatureSpec, shard: Path) -> None:
    empty = tmp_path / "set" / "lite.none-0123abcd"
    empty.mkdir()
    (empty / "spec.json").write_text("{}")
    _, claim = Claims(tmp_path, "set").acquire([1])
    assert claim is not None
    assert found(tmp_path) == []
    claim.release()
    assert [finding.path for finding in found(tmp_path)] == [empty]
    found(tmp_path, repair=True)
    assert not empty.exists()
    assert shard.exists()


def test_features_can_be_picked(tmp_path: Path, spec: FeatureSpec, clips: list[Clip], shard: Path) -> None:
    other = spec.model_copy(update={"name": "lite:waveplot"})
    path = FeatureStore(tmp_path, "set", other).commit(result_of(other, clips))
    path.write_bytes(b"")
    (mine,) = [each for each in cached_features(tmp_path, "set") if each.matches("lite:mfcc")]
    assert list(verify(tmp_path, "set", [mine])) == []
    assert [finding.path for finding in found(tmp_path)] == [path]


def test_memory_of_what_was_passed_adds_up(tmp_path: Path, shard: Path) -> None:
    sizes: list[int] = []
    list(verify(tmp_path, "set", passed=sizes.append))
    assert sizes == [shard.stat().st_size]


def test_a_reader_that_listed_a_shard_before_it_was_rewritten_looks_again(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(result_of(spec, clips[:3], value=1))
    store.commit(result_of(spec, clips[2:], value=3))
    reader = FeatureStore(tmp_path, "set", spec)
    expected = reader.load(clips).data
    lookup, repaired = reader.lookup, False

    def lookup_then_repair(*arguments: object, **options: object) -> object:
        nonlocal repaired
        answer = lookup(*arguments, **options)  # type: ignore[arg-type]
        if not repaired:
            repaired = True
            found(tmp_path, repair=True)
        return answer

    monkeypatch.setattr(reader, "lookup", lookup_then_repair)
    np.testing.assert_array_equal(reader.load(clips).data, expected)


def test_an_extraction_that_goes_on_loses_nothing_to_a_repair(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    """A run that planned before and commits after finds its rows and the others'."""
    store.commit(result_of(spec, clips[:3], value=1))
    running = FeatureStore(tmp_path, "set", spec)
    running.lookup(clips)
    store.commit(result_of(spec, clips[1:4], value=2))
    found(tmp_path, repair=True)
    running.commit(result_of(spec, clips[3:], value=9))
    assert (running.lookup(clips).outcome == DONE).all()


def test_a_store_that_looks_while_shards_are_rewritten_misses_nothing(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has listed the old shards when they go, and the new ones have come after that."""
    store.commit(result_of(spec, clips[:3], value=1))
    store.commit(result_of(spec, clips[2:], value=3))
    read, repaired = avfuse.features.cache.store.read_shard, False

    def repair_then_read(path: Path) -> object:
        nonlocal repaired
        if not repaired:
            repaired = True
            assert found(tmp_path, repair=True)
        return read(path)

    monkeypatch.setattr(avfuse.features.cache.store, "read_shard", repair_then_read)
    assert (FeatureStore(tmp_path, "set", spec).lookup(clips).outcome == DONE).all()
    assert repaired
