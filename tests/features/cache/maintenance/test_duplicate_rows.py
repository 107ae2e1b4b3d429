"""Of several rows for one clip and file repair keeps the one that counts."""

from pathlib import Path

import numpy as np
import pytest
from cached import findings, result_of, touch

from avfuse.features.cache import FeatureStore
from avfuse.features.cache.claims import Claims
from avfuse.features.cache.shard_reader import read_software
from avfuse.features.cache.store import DONE, FAILED
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec


def test_duplicates_are_dropped_and_the_row_that_counts_stays(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    """Overlapping shards, as two runs leave them that did not know of each other."""
    store.commit(result_of(spec, clips[:3], clips[3:4], value=10))
    store.commit(result_of(spec, clips[1:4], clips[4:], value=20))
    store.commit(result_of(spec, clips[:1], value=30))
    before = FeatureStore(tmp_path, "set", spec).load(clips)
    software = read_software(store.paths()[0])
    problems = [finding.problem for finding in findings(tmp_path)]
    assert problems
    assert all("superseded by another row for the same clip and file" in problem for problem in problems)
    assert len(store.paths()) == 3
    assert all(finding.repaired for finding in findings(tmp_path, repair=True))
    again = FeatureStore(tmp_path, "set", spec)
    after = again.load(clips)
    np.testing.assert_array_equal(before.data, after.data)
    assert before.missing == after.missing
    assert len(again.rows()) == 5
    assert again.lookup(clips).extra == 0
    assert read_software(again.paths()[0]) == software
    assert findings(tmp_path) == []


@pytest.mark.parametrize("earlier", [True, False])
def test_of_a_touched_file_the_row_of_the_later_time_stays(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip], earlier: bool
) -> None:
    store.commit(result_of(spec, clips[:2], value=1))
    touch(clips[0].path, 10 if earlier else -10)
    store.commit(result_of(spec, clips[:1], value=50))
    findings(tmp_path, repair=True)
    again = FeatureStore(tmp_path, "set", spec)
    assert again.load(clips[:2]).data[:, 0].tolist() == ([1, 2] if earlier else [50, 2])
    assert len(again.rows()) == 2


def test_rows_of_a_replaced_file_are_no_duplicates(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    store.commit(result_of(spec, clips))
    clips[0].path.write_bytes(b"other" * 50)
    store.commit(result_of(spec, [clips[0], Clip("clip-1", clips[1].path, 0.5, 1.0)]))
    assert findings(tmp_path) == []


def test_a_failure_that_was_tried_again_is_history(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    store.commit(result_of(spec, failed=clips[:2]))
    store.commit(result_of(spec, clips[:1], failed=clips[1:2], attempts=2))
    assert findings(tmp_path) == []
    store.commit(result_of(spec, failed=clips[1:2], attempts=2, value=1, done=clips[2:3]))
    assert [finding.problem for finding in findings(tmp_path, repair=True)] != []
    again = FeatureStore(tmp_path, "set", spec).lookup(clips[:3])
    assert again.outcome.tolist() == [DONE, FAILED, DONE]
    assert again.attempts.tolist() == [0, 2, 0]
    assert findings(tmp_path) == []


def test_a_row_that_is_not_finite_outweighs_nothing(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    store.commit(result_of(spec, clips[:1], value=5))
    broken = result_of(spec, clips[:1])
    broken.data[0][:] = np.nan
    store.commit(broken)
    findings(tmp_path, repair=True)
    assert FeatureStore(tmp_path, "set", spec).load(clips[:1]).data[0, 0] == 5


def test_a_rewriting_that_was_interrupted_is_finished(
    tmp_path: Path, spec: FeatureSpec, store: FeatureStore, clips: list[Clip]
) -> None:
    """The new shard is there, the old one still too."""
    store.commit(result_of(spec, clips, value=1))
    store.commit(result_of(spec, clips[2:], value=3))
    before = FeatureStore(tmp_path, "set", spec).load(clips).data
    for _ in range(3):
        findings(tmp_path, repair=True)
        assert findings(tmp_path) == []
        np.testing.assert_array_equal(FeatureStore(tmp_path, "set", spec).load(clips).data, before)


def test_only_one_repairs_at_a_time(tmp_path: Path, shard: Path) -> None:
    with Claims(tmp_path, "set").exclusive_maintenance(), pytest.raises(UsageError, match="wait for it"):
        findings(tmp_path, repair=True)
