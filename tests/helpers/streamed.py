"""Cached features whose rows tell their clip, and their place in it, for tests of streams."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avfuse.features.cache import ChunkResult, FeatureStore, fingerprint
from avfuse.features.cache.streaming import FeatureBatch, FeatureStream
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec

CLIPS = 60
SHARD = 8
ROW_BYTES = 2**15
SCRATCH_BYTES = 384 * 1024
"""The block that files are read through, and Python's own objects."""


@dataclass(frozen=True)
class Cached:
    """Three features of 60 clips. `video` is the largest, 8 clips a shard; `sound` is cut alike; `images`, of whole
    numbers, after 13 and then every 17 clips. Some clips have one or two of them, two have none."""

    clips: list[Clip]
    stores: dict[str, FeatureStore]

    def stream(self, *names: str, batch_size: int = 7, shards_per_window: int = 2, **options: Any) -> FeatureStream:
        features = {name: self.stores[name] for name in names or self.stores}
        per_clip = sum(store.spec.bytes_per_clip for store in features.values())
        options = {"window_bytes": shards_per_window * SHARD * per_clip, **options}
        return FeatureStream(features, self.clips, batch_size, **options)


SHAPES = {"video": (5, 8), "sound": (6,), "images": (2, 2, 3)}
MISSING = {"video": {3, 17, 18, 40}, "sound": {4, 17, 40, 41}, "images": {5, 17, 41, 40}}
CUTS = {"video": range(SHARD, CLIPS, SHARD), "sound": range(SHARD, CLIPS, SHARD), "images": range(13, CLIPS, 17)}
NOWHERE = [17, 40]


def spec_of(name: str, shape: tuple[int, ...] | None = None) -> FeatureSpec:
    dtype = "uint8" if name == "images" else "float16"
    changes = {"name": name, "output": "tokens", "shape": shape or SHAPES[name], "dtype": dtype}
    return resolve(["lite:frames"])[0].model_copy(update=changes)


def make_clips(folder: Path, count: int) -> list[Clip]:
    clips = [Clip(f"clip-{number:03}", folder / f"{number:03}.avi") for number in range(count)]
    for clip in clips:
        clip.path.write_text(clip.clip_id)
    return clips


def fill(
    folder: Path, spec: FeatureSpec, clips: Sequence[Clip], cuts: Iterable[int], missing: Iterable[int] = ()
) -> FeatureStore:
    """Rows that tell their clip and their place in it. `missing` have no sound."""
    store = FeatureStore(folder, "set", spec)
    for chunk in np.split(np.arange(len(clips)), list(cuts)):
        result = ChunkResult(spec)
        for number in chunk.tolist():
            stamped = (clips[number], fingerprint(clips[number].path))
            if number in set(missing):
                result.no_audio.append(stamped)
            else:
                result.done.append(stamped)
                result.data.append((np.arange(spec.bytes_per_clip) % 7 + number)[: np.prod(spec.shape)])
        store.commit(result)
    return store


def index_of(batches: Iterable[FeatureBatch]) -> list[int]:
    return [position for batch in batches for position in batch.index.tolist()]


def assert_equal_to_loading(
    batches: Iterable[FeatureBatch], stores: dict[str, FeatureStore], clips: Sequence[Clip]
) -> None:
    loaded = {name: store.load(clips) for name, store in stores.items()}
    for batch in batches:
        assert batch.data.keys() == batch.present.keys() == stores.keys()
        for name, rows in batch.data.items():
            assert rows.dtype == stores[name].spec.dtype
            np.testing.assert_array_equal(rows, loaded[name].data[batch.index])
            np.testing.assert_array_equal(batch.present[name], loaded[name].present[batch.index])
