"""Names become specs, and specs become keys."""

from typing import Any

import pytest

from avfuse.features.audio_images import list_audio_images
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import expand_names, image_spec, resolve


def test_a_backbone_means_all_it_takes() -> None:
    assert [spec.name for spec in resolve(["lite"])] == [
        "lite:frames",
        *(f"lite:{name}" for name in list_audio_images()),
        "lite:fbank",
    ]


def test_names_are_taken_once() -> None:
    assert len(resolve(["lite:images", "lite:mfcc", "lite"])) == 8
    assert expand_names(["lite:mfcc", "lite:images"])[0] == "lite:mfcc"


@pytest.mark.parametrize("name", ["litee", "lite:spectrogram", "lite:", ":frames"])
def test_an_unknown_name_is_refused_with_the_choice(name: str) -> None:
    if name == "lite:":
        assert len(resolve([name])) == 8
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


def names(*requested: str, **how: Any) -> list[str]:
    return [spec.name for spec in resolve(requested, **how)]


def test_audio_images_have_styles_and_views() -> None:
    assert names("lite:mfcc-paper:h") == ["lite:mfcc-paper:h"]
    assert names("lite:mfcc:flips") == ["lite:mfcc", "lite:mfcc:h", "lite:mfcc:v", "lite:mfcc:hv"]
    assert names("lite:images-paper") == [f"lite:{name}-paper" for name in list_audio_images()]
    assert names("lite:mfcc", "lite:frames:h", style="paper") == ["lite:mfcc-paper", "lite:frames:h"]
    assert names("lite:mfcc-aligned", style="paper") == ["lite:mfcc"]
    assert len(names("lite:images:flips")) == 24
    assert expand_names(["lite:mfcc-paper:flips", "lite:mfcc@12345678"])[3:] == [
        "lite:mfcc-paper:hv",
        "lite:mfcc@12345678",
    ]


def test_windows_are_features_of_their_own() -> None:
    first, second = resolve(["lite:frames:windows2"], sampling="uniform:4")
    assert (first.name, second.name) == ("lite:frames:1of2", "lite:frames:2of2")
    assert (first.input.sampling, second.input.sampling) == ("uniform:4@1/2", "uniform:4@2/2")
    assert (first.shape, first.key != second.key) == ((4, 1280), True)
    (turned,) = resolve(["lite:frames:tokens:3of4:h"], sampling="strided:4x2")
    assert (turned.name, turned.input.sampling, turned.view) == ("lite:frames:tokens:3of4:h", "strided:4x2@3/4", "h")
    assert expand_names(["lite:frames:windows2"]) == ["lite:frames:1of2", "lite:frames:2of2"]
    with pytest.raises(UsageError, match="a window already"):
        resolve(["lite:frames:1of2"], sampling="uniform:4@1/3")


def test_precision_is_in_the_key() -> None:
    full, half = (resolve(["lite:mfcc"], precision=precision)[0] for precision in ("float32", "bfloat16"))
    assert (full.name, full.compute, half.compute) == (half.name, "float32", "bfloat16")
    assert full.key != half.key


def test_inputs_themselves_can_be_asked_for() -> None:
    image, paper, bank = resolve(["image:mfcc", "image:mfcc-paper", "audio:fbank"])
    assert (image.shape, image.dtype, image.output, image.model) == ((224, 224, 3), "uint8", "image", None)
    assert (paper.shape, paper.bytes_per_clip) == ((360, 360, 3), 360 * 360 * 3)
    assert (bank.shape, bank.dtype, bank.compute) == ((1024, 128), "float32", "float64")
    assert names("image") == [f"image:{name}" for name in list_audio_images()]
    assert resolve(["image:mfcc"], size=(100, 200))[0].shape == (100, 200, 3)


def test_the_papers_pictures_are_normalised_as_they_were() -> None:
    ours, theirs = resolve(["lite:mfcc", "lite:mfcc-paper"])
    assert ours.preprocess is not None
    assert theirs.preprocess is not None
    assert ours.preprocess.mean == (127, 127, 127)
    assert theirs.preprocess.mean == (123.675, 116.28, 103.53)
    assert (theirs.input.height, theirs.input.width, theirs.preprocess.crop) == (360, 360, 224)


def test_a_backbones_picture_and_the_picture_itself_are_drawn_alike() -> None:
    lite, image = resolve(["lite:mfcc:h", "image:mfcc"])
    assert image_spec(lite.input) == image


@pytest.mark.parametrize(
    "name",
    [
        "lite:mfcc:x",
        "lite:mfcc-pretty",
        "lite:frames-paper",
        "lite:frames:v",
        "lite:frames:5of4",
        "lite:frames:0of4",
        "lite:mfcc:windows4",
        "audio:fbank:h",
        "image:frames",
        "audio:x",
    ],
)
def test_what_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name.partition(":")[2]):
        resolve([name])


@pytest.mark.parametrize("name", ["lite:chromagram", "lite:frames:h", "image:mfcc-paper", "audio:fbank"])
def test_the_key_survives_a_round_trip_through_json(name: str) -> None:
    (spec,) = resolve([name])
    assert type(spec).model_validate_json(spec.canonical_json).key == spec.key


def test_style_size_and_view_change_the_key() -> None:
    specs = [
        *resolve(["lite:mfcc", "lite:mfcc:h", "lite:mfcc-paper", "image:mfcc"]),
        *resolve(["lite:mfcc"], size=(300, 300)),
        *resolve(["image:mfcc"], size=(300, 300)),
    ]
    assert len({spec.key for spec in specs}) == len(specs)


def test_single_precision_is_stored_on_demand_and_is_another_feature() -> None:
    half, single = (resolve(["lite:mfcc"], dtype=dtype)[0] for dtype in ("float16", "float32"))
    assert (half.dtype, single.dtype) == ("float16", "float32")
    assert half.key != single.key
    assert single.bytes_per_clip == 2 * half.bytes_per_clip
    assert [spec.dtype for spec in resolve(["image:mfcc", "audio:fbank"], dtype="float16")] == ["uint8", "float32"]
