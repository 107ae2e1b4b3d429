"""Names become specs, and specs become keys."""

import pytest

from features.audio_images import REPRESENTATIONS
from features.errors import UsageError
from features.requests import expand_names, resolve


def test_a_backbone_means_all_it_takes() -> None:
    assert [spec.name for spec in resolve(["lite"])] == ["lite:frames", *(f"lite:{name}" for name in REPRESENTATIONS)]


def test_names_are_taken_once() -> None:
    assert len(resolve(["lite:images", "lite:mfcc", "all"])) == 7
    assert expand_names(["lite:mfcc", "lite:images"])[0] == "lite:mfcc"


@pytest.mark.parametrize("name", ["litee", "lite:spectrogram", "lite:", ":frames"])
def test_an_unknown_name_is_refused_with_the_choice(name: str) -> None:
    if name == "lite:":
        assert len(resolve([name])) == 7
        return
    with pytest.raises(UsageError, match=r"choose from|takes"):
        resolve([name])


def test_shapes_and_sizes() -> None:
    frames, mfcc = resolve(["lite:frames", "lite:mfcc"], sampling="uniform:8")
    assert (frames.shape, frames.bytes_per_clip) == ((8, 1280), 8 * 1280 * 2)
    assert (mfcc.shape, mfcc.bytes_per_clip) == ((1280,), 1280 * 2)


def test_the_key_changes_with_everything_that_decides_bytes() -> None:
    spec = resolve(["lite:frames"])[0]
    changed = [
        spec.model_copy(update={"dtype": "float32"}),
        spec.model_copy(update={"model": spec.model.model_copy(update={"checkpoint": "0" * 64})}),
        spec.model_copy(update={"model": spec.model.model_copy(update={"revision": 2})}),
        spec.model_copy(update={"model": spec.model.model_copy(update={"untrained": True})}),
        spec.model_copy(
            update={
                "input": spec.input.model_copy(update={"reader": spec.input.reader.model_copy(update={"revision": 9})})
            }
        ),
        resolve(["lite:frames"], sampling="uniform:8")[0],
        resolve(["lite:mfcc"])[0],
    ]
    assert len({spec.key, *(other.key for other in changed)}) == 1 + len(changed)


def test_the_key_survives_a_round_trip_through_json() -> None:
    spec = resolve(["lite:chromagram"])[0]
    assert type(spec).model_validate_json(spec.canonical_json).key == spec.key
