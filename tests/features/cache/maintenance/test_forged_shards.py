"""Shards with a right hash are rejected if their parts contradict each other, or are anything but plain data."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from cached import findings, planned_ids, result_of

from avfuse.features.cache import DamagedShard, FeatureStore
from avfuse.features.cache.maintenance.verify_repair import verify_shard
from avfuse.features.cache.shard_writer import shard_content
from avfuse.features.clips import Clip
from avfuse.features.spec import FeatureSpec


def named_by_hash(folder: Path, content: bytes) -> Path:
    """A file that is what its name says, whoever wrote it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shard-00000000-{xxhash.xxh3_128_hexdigest(content)}.h5"
    path.write_bytes(content)
    return path


def test_a_shard_in_another_features_folder_is_set_aside(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], shard: Path
) -> None:
    other = spec.model_copy(update={"view": "h", "name": "lite:mfcc:h"})
    theirs = FeatureStore(tmp_path, "set", other).commit(result_of(other, clips[:2]))
    stray = theirs.rename(store.folder / theirs.name)
    problems = {finding.path: finding.problem for finding in findings(tmp_path)}
    assert f"lite:mfcc:h@{other.key}" in problems[stray]
    findings(tmp_path, repair=True)
    assert [path.name for path in FeatureStore(tmp_path, "set", spec).paths()] == [shard.name]
    assert planned_ids(tmp_path, spec, clips[:4]) == []


def test_a_key_that_is_not_its_specs_is_found(tmp_path: Path, spec: FeatureSpec, clips: list[Clip]) -> None:
    class Forged(FeatureSpec):
        @property
        def key(self) -> str:
            return "00000000"

    forged = Forged.model_validate(spec.model_dump())
    FeatureStore(tmp_path, "set", forged).commit(result_of(forged, clips))
    (finding,) = findings(tmp_path)
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
    title, header_json = header.split(b"\n")[:2]
    contents = json.loads(header_json)
    contents["parts"]["data"]["offset"] -= 2
    changed = json.dumps(contents, separators=(",", ":")).encode()
    title = title.replace(xxhash.xxh3_128_hexdigest(header_json).encode(), xxhash.xxh3_128_hexdigest(changed).encode())
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
    problems = {finding.path: finding for finding in findings(tmp_path, repair=True)}
    assert "another version" in problems[path].problem
    assert path.is_file()
