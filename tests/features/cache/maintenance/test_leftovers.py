"""Files and folders beside the shards that do not belong there are found, and leftovers removed."""

from pathlib import Path

from cached import findings, touch

from avfuse.features.cache.claims import Claims
from avfuse.features.spec import FeatureSpec


def test_a_missing_or_wrong_description_is_written_again(tmp_path: Path, spec: FeatureSpec, shard: Path) -> None:
    spec_file = shard.parent / "spec.json"
    right = spec_file.read_text()
    for wrong in (None, "{}", "no json", spec.model_copy(update={"dtype": "float32"}).model_dump_json()):
        spec_file.unlink()
        if wrong is not None:
            spec_file.write_text(wrong)
        assert [finding.path for finding in findings(tmp_path)] == [spec_file]
        assert [finding.repaired for finding in findings(tmp_path, repair=True)] == ["written again"]
        assert spec_file.read_text() == right


def test_a_temporary_file_goes_unless_a_living_run_may_write_it(tmp_path: Path, shard: Path) -> None:
    young, old = shard.parent / ".young.tmp", shard.parent / ".old.tmp"
    young.touch()
    old.touch()
    touch(old, 7200)
    _, claim = Claims(tmp_path, "set").acquire([1, 2])
    assert claim is not None
    assert [finding.path for finding in findings(tmp_path)] == [old]
    assert [finding.path for finding in findings(tmp_path, repair=True)] == [old]
    assert young.exists()
    assert not old.exists()
    claim.release()
    assert [finding.path for finding in findings(tmp_path, repair=True)] == [young]
    assert not young.exists()
    assert findings(tmp_path) == []


def test_what_a_dead_run_claimed_goes(tmp_path: Path, shard: Path) -> None:
    claims = Claims(tmp_path, "set")
    _, living = claims.acquire([1])
    assert living is not None
    left = [claims.folder / name for name in ("dead.claim", "dead.lock", "alone.lock", "unlocked.claim")]
    for path in left:
        path.touch()
    assert {finding.path for finding in findings(tmp_path)} == set(left)
    assert all(path.exists() for path in left)
    findings(tmp_path, repair=True)
    assert not any(path.exists() for path in left)
    assert claims.claimed_ids().tolist() == [1]
    living.release()
    assert findings(tmp_path) == []


def test_what_does_not_belong_is_named_and_left(tmp_path: Path, shard: Path) -> None:
    strangers = [shard.parent / "notes.txt", tmp_path / "set" / "notes", tmp_path / "set" / ".claims" / "notes.txt"]
    strangers[1].mkdir()
    strangers[2].parent.mkdir()
    for path in strangers:
        path.exists() or path.touch()
    assert {finding.path for finding in findings(tmp_path)} == set(strangers)
    assert not any(finding.repaired for finding in findings(tmp_path, repair=True))
    assert all(path.exists() for path in strangers)


def test_an_empty_feature_folder_goes(tmp_path: Path, spec: FeatureSpec, shard: Path) -> None:
    empty = tmp_path / "set" / "lite.none-0123abcd"
    empty.mkdir()
    (empty / "spec.json").write_text("{}")
    _, claim = Claims(tmp_path, "set").acquire([1])
    assert claim is not None
    assert findings(tmp_path) == []
    claim.release()
    assert [finding.path for finding in findings(tmp_path)] == [empty]
    findings(tmp_path, repair=True)
    assert not empty.exists()
    assert shard.exists()
