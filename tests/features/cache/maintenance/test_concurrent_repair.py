"""Repair is safe beside readers and extractions."""

from pathlib import Path

import numpy as np
import pytest
from cached import findings, result_of

import avfuse.features.cache.store
from avfuse.features.cache import FeatureStore
from avfuse.features.cache.store import DONE
from avfuse.features.clips import Clip
from avfuse.features.spec import FeatureSpec


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
            findings(tmp_path, repair=True)
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
    findings(tmp_path, repair=True)
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
            assert findings(tmp_path, repair=True)
        return read(path)

    monkeypatch.setattr(avfuse.features.cache.store, "read_shard", repair_then_read)
    assert (FeatureStore(tmp_path, "set", spec).lookup(clips).outcome == DONE).all()
    assert repaired
