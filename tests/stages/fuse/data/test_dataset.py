"""What stage two takes for a clip without a modality, and what it does not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avfuse.features.cache.store import NO_AUDIO, NOT_EXTRACTED, Loaded
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.data.dataset import FusionData, _check_same_clips

FRAMES, MFCC = resolve(["lite:frames", "lite:mfcc"])
MANIFEST = SimpleNamespace(name="clips")


def loaded(spec: object, missing: dict[str, str]) -> Loaded:
    return Loaded(spec=spec, data=np.zeros(0), present=np.zeros(0, dtype=bool), missing=missing)  # type: ignore[arg-type]


def test_a_feature_extracted_for_some_of_the_clips_is_refused() -> None:
    parts = [
        loaded(FRAMES, {"a": NOT_EXTRACTED}),
        loaded(MFCC, {"a": NOT_EXTRACTED, "b": NOT_EXTRACTED, "c": NO_AUDIO}),
    ]
    with pytest.raises(UsageError, match=r"lite:mfcc.*for 1 clips.*DATASET=clips FEATURES=lite:mfcc"):
        _check_same_clips(MANIFEST, parts)  # type: ignore[arg-type]


def test_clips_without_sound_or_that_failed_are_not_refused() -> None:
    parts = [
        loaded(FRAMES, {"a": NOT_EXTRACTED, "b": "failed (open: empty)"}),
        loaded(MFCC, {"a": NOT_EXTRACTED, "c": NO_AUDIO}),
    ]
    _check_same_clips(MANIFEST, parts)  # type: ignore[arg-type]


def test_arrays_make_a_data_set() -> None:
    video = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    audio = video[:, :1].copy()
    audio[1] = np.nan
    splits = np.array(["train", "val", "test", "train"])
    data = FusionData.from_arrays({"video": video, "audio": audio}, np.array([1, 0, 1, 0]), ["clap", "jump"], splits)
    assert [indices.tolist() for indices in (data.train, data.validation, data.test, data.unlabelled)] == [
        [0, 3],
        [1],
        [2],
        [],
    ]
    assert data.modalities["audio"].present.tolist() == [True, False, True, True]
    assert data.table["label"].tolist() == ["jump", "clap", "jump", "clap"]
    assert data.table["group"].is_unique
    assert torch.equal(data.truth[0], torch.tensor([1, 0, 1, 0]))
    assert data.shapes["video"][:2] == (3, 2)
