"""Data sets whose features are made up and whose media are not there: a cache outlives its media."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.cache.maintenance.imports import ImportDescription
from avfuse.manifests import Manifest, Target, save_manifest

DIM, FRAMES = 16, 3
INPUTS = {"video": ["imported:picture"], "audio": ["imported:sound"]}
_FEATURES: Mapping[Literal["video", "audio"], str] = {"video": "picture", "audio": "sound"}


def save_set(cache: Path, manifest: Manifest, video: np.ndarray, audio: np.ndarray) -> Manifest:
    """A manifest with its features, video (n, T, D) and audio (n, D); a clip of NaN has no such stream."""
    save_manifest(cache, manifest)
    for modality, rows in (("video", video), ("audio", audio)):
        spec = ImportDescription(_FEATURES[modality], modality, "made up", dtype="float32").spec(rows.shape[1:])
        there = ~np.isnan(rows).any(axis=tuple(range(1, rows.ndim)))
        clips = list(zip(manifest.clips(), rows.astype(np.float32), there, strict=True))
        result = ChunkResult(
            spec,
            done=[(clip, MISSING) for clip, _, is_there in clips if is_there],
            data=[row for _, row, is_there in clips if is_there],
            no_audio=[(clip, MISSING) for clip, _, is_there in clips if not is_there],
        )
        FeatureStore(cache, manifest.collection, spec).commit(result)
    return manifest


def scattered(numbers: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """(n, D): a point per number, and noise around it."""
    generator = np.random.default_rng(seed)
    points = generator.standard_normal((numbers.max() + 1, DIM))
    return points[numbers] + noise * generator.standard_normal((len(numbers), DIM))


def kitchen(
    cache: Path, clips: int = 300, verbs: int = 3, nouns: int = 4, unlabelled: int = 20, noise: float = 0.4
) -> Manifest:
    """Verbs are only seen, nouns only heard, and there is one more class of each than occurs. The last clips are
    unlabelled. Official numbers run against the order of the classes."""
    generator = np.random.default_rng(0)
    verb, noun = generator.integers(verbs, size=clips), generator.integers(nouns, size=clips)
    table = pd.DataFrame(
        {
            "clip_id": [f"P01_{index}" for index in range(clips)],
            "path": [f"{index}.mp4" for index in range(clips)],
            "start": np.nan,
            "end": np.nan,
            "label": [f"verb{v} noun{n}" for v, n in zip(verb, noun, strict=True)],
            "verb": [f"verb{v}" for v in verb],
            "noun": [f"noun{n}" for n in noun],
            "split": np.where(np.arange(clips) % 4 == 3, "test", "train"),
            "group": [f"g{index // 2}" for index in range(clips)],
        }
    )
    table.loc[clips - unlabelled :, ["label", "verb", "noun"]] = None
    table.loc[clips - unlabelled :, "split"] = "unlabelled"
    targets = tuple(
        Target(name, tuple(f"{name}{number}" for number in range(count + 1)))
        for name, count in (("verb", verbs), ("noun", nouns))
    )
    numbers = {
        each.name: {name: len(each.classes) - 1 - at for at, name in enumerate(each.classes)} for each in targets
    }
    manifest = Manifest("kitchen", "kitchen", cache, table, {"class_ids": numbers}, targets=targets)
    video = np.repeat(scattered(verb, noise, 1)[:, None], FRAMES, axis=1)
    return save_set(cache, manifest, video, scattered(noun, noise, 2))


def sounds(
    cache: Path, clips: int = 320, classes: int = 8, several_in_train: bool = True, noise: float = 0.4
) -> Manifest:
    """Clips of one to three classes; half of the classes are seen and the others heard, each as a direction of its own.
    Without `several_in_train` training clips have one class each."""
    generator = np.random.default_rng(3)
    test = np.arange(clips) % 4 == 3
    counts = np.where(test | several_in_train, generator.integers(1, 4, size=clips), 1)
    named = np.zeros((clips, classes), dtype=bool)
    for row, count in enumerate(counts):
        named[row, generator.permutation(classes)[:count]] = True
    directions = generator.standard_normal((classes, DIM))
    seen = np.arange(classes) < classes // 2
    video = (named * seen) @ directions + noise * generator.standard_normal((clips, DIM))
    audio = (named * ~seen) @ directions + noise * generator.standard_normal((clips, DIM))
    names = [f"class {number}" for number in range(classes)]
    table = pd.DataFrame(
        {
            "clip_id": [f"s{index}" for index in range(clips)],
            "path": [f"{index}.mp4" for index in range(clips)],
            "start": np.nan,
            "end": np.nan,
            "label": None,
            "labels": ["|".join(names[each] for each in np.flatnonzero(row)) for row in named],
            "split": np.where(test, "test", "train"),
            "group": [f"g{index}" for index in range(clips)],
        }
    )
    manifest = Manifest("sounds", "sounds", cache, table, targets=(Target("labels", tuple(names), several=True),))
    return save_set(cache, manifest, video[:, None], audio)


def pairs(cache: Path, clips: int = 240, hidden: int = 6, noise: float = 0.3, dealt: bool = False) -> Manifest:
    """Sound and picture of a clip tell of the same hidden numbers, of which the largest of the first three is its
    class. dealt: sounds are dealt anew among the clips of a class, so that they share the class alone. The first test
    clip has no sound, the second no picture."""
    generator = np.random.default_rng(5)
    numbers = generator.standard_normal((clips, hidden))
    labels, heard = numbers[:, :3].argmax(axis=1), np.arange(clips)
    if dealt:
        for label in range(3):
            heard[labels == label] = generator.permutation(np.flatnonzero(labels == label))
    to_video, to_audio = generator.standard_normal((2, hidden, DIM))
    video = np.repeat((numbers @ to_video)[:, None], FRAMES, axis=1)
    video += noise * generator.standard_normal(video.shape)
    audio = numbers[heard] @ to_audio + noise * generator.standard_normal((clips, DIM))
    audio[3], video[7] = np.nan, np.nan
    table = pd.DataFrame(
        {
            "clip_id": [f"p{index}" for index in range(clips)],
            "path": [f"media/{index}.mp4" for index in range(clips)],
            "start": np.nan,
            "end": np.nan,
            "label": [f"class{label}" for label in labels],
            "split": np.where(np.arange(clips) % 4 == 3, "test", "train"),
            "group": [f"g{index}" for index in range(clips)],
        }
    )
    name = "dealt" if dealt else "pairs"
    return save_set(cache, Manifest(name, name, cache, table), video, audio)
