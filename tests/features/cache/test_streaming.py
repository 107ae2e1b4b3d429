"""A stream gives every clip once, in the order of seed and epoch, with the rows that loading gives."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import CLIPS, MISSING, NOWHERE, SHAPES, SHARD, Cached, assert_equal_to_loading, index_of, spec_of

from avfuse.features.cache.streaming import FeatureStream
from avfuse.features.errors import UsageError


@settings(max_examples=40, deadline=None)
@given(
    parts=st.integers(1, 9),
    batch_size=st.integers(1, 70),
    shards_per_window=st.integers(0, 9),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
    names=st.sampled_from([(), ("video",), ("images",), ("sound", "video"), ("images", "sound")]),
)
def test_every_clip_comes_once_with_its_rows(
    cached: Cached,
    parts: int,
    batch_size: int,
    shards_per_window: int,
    shuffle: bool,
    epoch: int,
    names: tuple[str, ...],
) -> None:
    window_bytes = {} if shards_per_window else {"window_bytes": 1}
    stream = cached.stream(
        *names, batch_size=batch_size, shards_per_window=shards_per_window, shuffle=shuffle, **window_bytes
    )
    every = []
    for part in range(parts):
        batches = list(stream.batches(epoch, part, parts))
        sizes = [len(batch.index) for batch in batches]
        assert all(size == batch_size for size in sizes[:-1])
        assert all(0 < size <= batch_size for size in sizes)
        assert index_of(batches) == stream.order(epoch, part, parts).tolist()
        assert_equal_to_loading(batches, {name: cached.stores[name] for name in names or SHAPES}, cached.clips)
        every += index_of(batches)
    absent_everywhere = set.intersection(*(MISSING[name] for name in names or SHAPES))
    assert sorted(every) == sorted(set(range(CLIPS)) - absent_everywhere) == stream.positions.tolist()


def test_unshuffled_clips_come_in_their_own_order(cached: Cached) -> None:
    clips = [cached.clips[number] for number in np.random.default_rng(0).permutation(CLIPS)]
    stream = FeatureStream(cached.stores, clips, 7, shuffle=False, window_bytes=3000)
    batches = list(stream.batches())
    assert index_of(batches) == [at for at, clip in enumerate(clips) if int(clip.clip_id[-3:]) not in NOWHERE]
    assert_equal_to_loading(batches, cached.stores, clips)


def test_some_of_the_clips_in_another_order(cached: Cached) -> None:
    clips = cached.clips[50:2:-3]
    batches = list(FeatureStream(cached.stores, clips, 4, window_bytes=3000).batches())
    assert_equal_to_loading(batches, cached.stores, clips)
    assert [at for at in range(len(clips)) if at not in index_of(batches)] == [(50 - 17) // 3]


def test_the_order_is_that_of_seed_and_epoch(cached: Cached) -> None:
    orders = {(seed, epoch): cached.stream(seed=seed).order(epoch).tolist() for seed in range(3) for epoch in range(3)}
    assert orders[1, 2] == cached.stream(seed=1).order(2).tolist() == index_of(cached.stream(seed=1).batches(2))
    assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_readers_are_dealt_the_shards_of_one_order(cached: Cached) -> None:
    stream = cached.stream("video", shards_per_window=1)
    whole = shards_in_turn(stream.order(5))
    assert len(whole) == 8
    for part in range(3):
        assert shards_in_turn(stream.order(5, part, 3)) == whole[part::3]


def test_clips_of_a_window_are_mixed_and_no_others(cached: Cached) -> None:
    order = cached.stream("sound", shards_per_window=3).order()
    first = order[: 3 * SHARD - 4]
    assert len(set(first // SHARD)) == 3
    assert (np.diff(first // SHARD) != 0).sum() > 5
    assert not set(order[3 * SHARD :] // SHARD) & set(first // SHARD)


def shards_in_turn(order: np.ndarray) -> list[int]:
    shards = (order // SHARD).tolist()
    return [shard for at, shard in enumerate(shards) if at == 0 or shards[at - 1] != shard]


def test_a_feature_is_named_by_its_place_as_well(cached: Cached) -> None:
    store = cached.stores["sound"]
    place = (store.folder.parents[1], "set", store.spec)
    stream = FeatureStream({"sound": place}, cached.clips, 7)
    assert_equal_to_loading(stream.batches(), {"sound": store}, cached.clips)
    assert stream.specs == {"sound": store.spec}
    assert np.flatnonzero(~stream.present["sound"]).tolist() == sorted(MISSING["sound"])


def test_clips_that_have_no_feature_are_a_mistake(cached: Cached, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none of the 60 clips .*\(video\): run make extract"):
        FeatureStream({"video": (tmp_path, "set", spec_of("video"))}, cached.clips, 7)
    with pytest.raises(UsageError, match="none of the 2 clips"):
        FeatureStream(cached.stores, [cached.clips[number] for number in NOWHERE], 7)


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"window_bytes": 0}])
def test_sizes_below_one_are_a_mistake(cached: Cached, sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        cached.stream(**sizes)
