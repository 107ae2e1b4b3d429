"""Features that were computed elsewhere are imported under their own name, once they have been checked."""

import os
from pathlib import Path

import numpy as np
import pytest
from cached import make_clips

from avfuse.features.cache import FeatureStore
from avfuse.features.cache.claims import Claims, claim_id
from avfuse.features.cache.maintenance.imports import ImportDescription, ImportSummary, find_files, import_files
from avfuse.features.cache.maintenance.verify_repair import verify
from avfuse.features.cache.shard_reader import read_software
from avfuse.features.cache.store import ABSENT, DONE
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import expand_names, is_raw_input, resolve
from avfuse.features.spec import FeatureSpec, ImportedInput


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "media", 6)


def description(**changes: object) -> ImportDescription:
    said = {"name": "i3d", "modality": "video", "text": "I3D RGB, Kinetics-400", **changes}
    return ImportDescription(**said)  # type: ignore[arg-type]


def fill(folder: Path, arrays: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        (folder / f"{name}.npy").parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", array)  # type: ignore[arg-type]
    return folder


def varying(clips: list[Clip], dim: int = 4) -> dict[str, object]:
    """(T, D) with T from 3 on, row t of clip i holding 10 i + t."""
    return {
        clip.clip_id: np.repeat(10 * index + np.arange(3 + index)[:, None], dim, axis=1).astype(np.float32)
        for index, clip in enumerate(clips)
    }


def brought(
    tmp_path: Path, clips: list[Clip], folder: Path, pattern: str | None = None, **said: object
) -> ImportSummary:
    files, _ = find_files(folder, clips, pattern)
    return import_files(tmp_path, "set", files, description(**said))


def test_vectors_become_a_pooled_feature(tmp_path: Path, clips: list[Clip]) -> None:
    arrays = {clip.clip_id: np.full(4, index, np.float64) for index, clip in enumerate(clips)}
    done = brought(tmp_path, clips, fill(tmp_path / "npy", arrays))
    assert (done.new, done.unchanged, done.without_media) == (6, 0, 0)
    spec = done.spec
    assert (spec.name, spec.model, spec.output, spec.shape, spec.dtype) == (
        "imported:i3d",
        None,
        "pooled",
        (4,),
        "float16",
    )
    assert isinstance(spec.input, ImportedInput)
    assert spec.input.description == "I3D RGB, Kinetics-400"
    assert not spec.needs_audio
    assert not spec.untrained
    store = FeatureStore(tmp_path, "set", spec)
    assert store.load(clips).data[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(read_software(store.paths()[0])) == {"avfuse", "numpy"}
    assert list(verify(tmp_path, "set")) == []


def test_rows_of_one_length_become_frames(tmp_path: Path, clips: list[Clip]) -> None:
    arrays = {clip.clip_id: np.full((3, 4), index) for index, clip in enumerate(clips)}
    done = brought(tmp_path, clips, fill(tmp_path / "npy", arrays), modality="audio", dtype="float32")
    assert (done.spec.output, done.spec.shape, done.spec.dtype) == ("frames", (3, 4), "float32")
    assert done.spec.needs_audio


@pytest.mark.parametrize(
    ("reduce", "shape", "second"),
    [("mean", (4,), [11.5]), ("uniform:2", (2, 4), [11, 13]), ("uniform:5", (5, 4), [10, 11, 12, 12, 13])],
)
def test_rows_that_vary_in_number_are_reduced(
    tmp_path: Path, clips: list[Clip], reduce: str, shape: tuple[int, ...], second: list[float]
) -> None:
    done = brought(tmp_path, clips, fill(tmp_path / "npy", varying(clips)), reduce=reduce)
    assert done.spec.shape == shape
    assert FeatureStore(tmp_path, "set", done.spec).load(clips).data[1][..., 0].reshape(-1).tolist() == second


def test_rows_that_vary_in_number_name_the_way_out(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(UsageError, match=r"clip-1\.npy gives \(4, 4\), the first file \(3, 4\).*--reduce mean or"):
        brought(tmp_path, clips, fill(tmp_path / "npy", varying(clips)))
    assert not list((tmp_path / "set").glob("imported*"))


def test_files_are_named_by_stem_or_id_or_a_pattern(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {"clip-0": [1], "1": [2], "2_rgb": [3], "deep/clip-3": [4]})
    files, missing = find_files(folder, clips)
    assert [path.name for _, path in files] == ["clip-0.npy", "1.npy"]
    assert missing == ["clip-2", "clip-3", "clip-4", "clip-5"]
    assert [clip.clip_id for clip, _ in find_files(folder, clips, "{stem}_rgb.npy")[0]] == ["clip-2"]
    assert [clip.clip_id for clip, _ in find_files(folder, clips, "deep/{clip_id}.npy")[0]] == ["clip-3"]
    odd = [Clip("{stem}", clips[1].path), Clip("x" * 300, Path("nul\0.avi"))]
    assert find_files(folder, [clips[0], *odd], "{clip_id}.npy")[1] == [clip.clip_id for clip in odd]


def test_clips_without_a_file_stay_missing(tmp_path: Path, clips: list[Clip]) -> None:
    done = brought(tmp_path, clips, fill(tmp_path / "npy", {"clip-0": [1.0], "clip-4": [2.0]}))
    outcome = FeatureStore(tmp_path, "set", done.spec).lookup(clips).outcome
    assert outcome.tolist() == [DONE, ABSENT, ABSENT, ABSENT, DONE, ABSENT]


@pytest.mark.parametrize("pattern", ["{clip_id}", "all.npy", "{name}.npy", "{clip_id.__class__}.npy", "{}.npy"])
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, clips: list[Clip], pattern: str) -> None:
    with pytest.raises(UsageError, match="--pattern"):
        find_files(fill(tmp_path / "npy", {"all": [1]}), clips, pattern)


def test_no_file_at_all_says_where_it_looked(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(UsageError, match=r"looked for .*clip-0\.npy or .*/0\.npy"):
        find_files(fill(tmp_path / "npy", {}), clips)
    with pytest.raises(UsageError, match="is not a folder"):
        find_files(tmp_path / "nowhere", clips)


def test_files_outside_the_folder_are_refused(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {})
    fill(tmp_path / "secret", {"clip-0": [1.0]})
    for clip_id in ("../secret/clip-0", str(tmp_path / "secret" / "clip-0")):
        with pytest.raises(UsageError, match="outside"):
            find_files(folder, [Clip(clip_id, clips[0].path)])
    with pytest.raises(UsageError, match="outside"):
        find_files(folder, clips, "../secret/{clip_id}.npy")
    os.symlink(tmp_path / "secret" / "clip-0.npy", folder / "clip-0.npy")
    assert len(find_files(folder, clips)[0]) == 1


def test_one_file_for_several_clips_is_refused(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {"0": [1.0]})
    parts = [Clip("a", clips[0].path, 0, 1), Clip("b", clips[0].path, 1, 2)]
    with pytest.raises(UsageError, match="of 'a' and of 'b'"):
        find_files(folder, parts, "{stem}.npy")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([1.0, np.nan, 0, 0]), "not finite"),
        (np.array([1.0, -np.inf, 0, 0]), "not finite"),
        (np.array([1e6, 0, 0, 0]), r"range of float16: .*--dtype fp32"),
        (np.zeros((0, 4)), r"\(0, 4\)"),
        (np.zeros((1, 2, 4)), r"\(1, 2, 4\)"),
        (np.array(["a", "b", "c", "d"]), "<U1"),
        (np.array([1j, 0, 0, 0]), "complex"),
        (np.array([{}, 0, 0, 0], dtype=object), "not a complete array"),
        (np.zeros(5), r"gives \(5,\), the first file \(4,\): one feature"),
    ],
)
def test_a_file_that_cannot_be_is_named_and_nothing_comes_in(
    tmp_path: Path, clips: list[Clip], array: np.ndarray, says: str
) -> None:
    folder = fill(tmp_path / "npy", {clip.clip_id: np.zeros(4) for clip in clips})
    np.save(folder / "clip-5.npy", array, allow_pickle=True)
    with pytest.raises(UsageError, match=rf"clip-5\.npy .*{says}"):
        brought(tmp_path, clips, folder)
    assert not list((tmp_path / "set").glob("imported*"))


@pytest.mark.parametrize("damage", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_named(tmp_path: Path, clips: list[Clip], damage: bytes) -> None:
    folder = fill(tmp_path / "npy", {"clip-0": np.zeros(4)})
    whole = (folder / "clip-0.npy").read_bytes()
    for content in (damage, whole[:-1]):
        (folder / "clip-0.npy").write_bytes(content)
        with pytest.raises(UsageError, match=r"clip-0\.npy is not a complete array"):
            brought(tmp_path, clips, folder)


def test_vectors_have_no_rows_to_reduce(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(UsageError, match="leave out --reduce"):
        brought(tmp_path, clips, fill(tmp_path / "npy", {"clip-0": np.zeros(4)}), reduce="mean")


@pytest.mark.parametrize(
    ("said", "flag"),
    [
        ({"name": "a:b"}, "--name"),
        ({"name": ""}, "--name"),
        ({"name": "a,b"}, "--name"),
        ({"text": " "}, "--description"),
        ({"reduce": "max"}, "--reduce"),
        ({"reduce": "uniform:0"}, "--reduce"),
    ],
)
def test_a_description_that_is_none_is_refused(said: dict[str, object], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        description(**said)


def test_importing_again_adds_what_is_new_and_leaves_what_is_there(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {clip.clip_id: np.full(4, 0.1) for clip in clips[:3]})
    done = brought(tmp_path, clips, folder)
    store = FeatureStore(tmp_path, "set", done.spec)
    before = store.paths()
    assert brought(tmp_path, clips, folder).new == 0
    assert store.paths() == before
    fill(folder, {clips[3].clip_id: np.full(4, 0.2)})
    again = brought(tmp_path, clips, folder)
    assert (again.new, again.unchanged) == (1, 3)
    assert len(store.rows()) == 4


def test_other_numbers_for_a_clip_that_is_there_are_refused(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {clip.clip_id: np.full(4, 0.1) for clip in clips[:3]})
    done = brought(tmp_path, clips, folder)
    fill(folder, {"clip-1": np.full(4, 0.2), "clip-4": np.zeros(4)})
    with pytest.raises(UsageError, match=r"clip-1\.npy holds other values.*features remove.*another --name"):
        brought(tmp_path, clips, folder)
    assert len(FeatureStore(tmp_path, "set", done.spec).rows()) == 3


def test_another_description_under_one_name_is_refused(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {"clip-0": np.zeros(4)})
    done = brought(tmp_path, clips, folder)
    with pytest.raises(UsageError, match=f"imported:i3d@{done.spec.key}"):
        brought(tmp_path, clips, folder, text="I3D flow")
    assert brought(tmp_path, clips, folder, text="I3D flow", name="flow").new == 1


def test_a_replaced_media_file_wants_its_feature_imported_anew(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {"clip-0": np.zeros(4)})
    done = brought(tmp_path, clips, folder)
    clips[0].path.write_bytes(b"another film")
    assert FeatureStore(tmp_path, "set", done.spec).lookup(clips[:1]).outcome[0] == ABSENT
    fill(folder, {"clip-0": np.ones(4)})
    assert brought(tmp_path, clips, folder).new == 1


def test_media_that_are_not_there_are_counted(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {"clip-0": np.zeros(4), "clip-1": np.zeros(4)})
    clips[0].path.unlink()
    done = brought(tmp_path, clips, folder)
    assert done.without_media == 1
    assert (FeatureStore(tmp_path, "set", done.spec).lookup(clips[:2]).outcome == DONE).all()


def test_two_imports_at_once_do_not_mix(tmp_path: Path, clips: list[Clip]) -> None:
    folder = fill(tmp_path / "npy", {"clip-0": np.zeros(4)})
    spec = description().spec((4,))
    _, claim = Claims(tmp_path, "set").acquire([claim_id(spec.key, clips[0])])
    assert claim is not None
    with pytest.raises(UsageError, match="under way"):
        brought(tmp_path, clips, folder)
    claim.release()
    assert brought(tmp_path, clips, folder).new == 1


def test_many_clips_come_in_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avfuse.features.cache.maintenance.imports.CHUNK_CLIPS", 4)
    clips = make_clips(tmp_path / "media", 10)
    steps: list[int] = []
    folder = fill(tmp_path / "npy", {clip.clip_id: [float(index)] for index, clip in enumerate(clips)})
    done = import_files(tmp_path, "set", find_files(folder, clips)[0], description(), steps.append)
    store = FeatureStore(tmp_path, "set", done.spec)
    assert len(store.paths()) == 3
    assert store.load(clips).data[:, 0].tolist() == list(range(10))
    assert sum(steps) == 20


def test_imported_names_can_be_asked_for_and_not_extracted() -> None:
    assert expand_names(["imported:i3d", "imported:i3d@0123abcd"]) == ["imported:i3d", "imported:i3d@0123abcd"]
    assert not is_raw_input("imported:i3d")
    with pytest.raises(UsageError, match=r"computed elsewhere.*avfuse features import"):
        resolve(["imported:i3d"])


def test_other_specs_keep_their_keys() -> None:
    """What is cached stays found: an input more in the union changes no spec."""
    (spec,) = resolve(["audio:fbank"])
    assert "imported" not in spec.canonical_json
    assert FeatureSpec.model_validate_json(spec.canonical_json) == spec
