"""A feature made again is the same feature, or one is told what differs."""

from pathlib import Path

import pytest

from avfuse.features.backbones import WeightsChoice
from avfuse.features.cache.maintenance.imports import ImportDescription
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.reproducibility import check_reproducible, current_spec
from avfuse.features.spec import FeatureSpec

RANDOM = WeightsChoice("random")


@pytest.mark.parametrize(
    "options",
    [
        {"names": ["lite:frames", "lite:images", "lite:fbank"]},
        {"names": ["lite:frames:windows2", "lite:mfcc:flips"], "sampling": "uniform:3"},
        {"names": ["lite:frames"], "sampling": "strided:8x2", "dtype": "float32"},
        {"names": ["lite:mfcc"], "style": "paper"},
        {"names": ["lite:chromagram", "lite:waveplot-paper"], "size": (300, 400)},
        {"names": ["lite:fbank:tokens", "audio:fbank", "image:mfcc"]},
    ],
)
def test_every_option_of_a_feature_is_found_again(options: dict[str, object]) -> None:
    for spec in resolve(**options):  # type: ignore[arg-type]
        assert current_spec(spec) == spec
        check_reproducible(spec)


def test_untrained_networks_and_half_precision_are_found_again() -> None:
    for spec in resolve(["vit:frames:tokens", "swin3d:clip"], weights=RANDOM, precision="bfloat16"):
        assert current_spec(spec, RANDOM) == spec


def refused(spec: FeatureSpec, weights: WeightsChoice | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        check_reproducible(spec, weights or WeightsChoice())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_other_weights_are_named() -> None:
    (spec,) = resolve(["lite:frames"])
    assert spec.model is not None
    other = spec.model_copy(update={"model": spec.model.model_copy(update={"checkpoint": "ab" * 32})})
    message = refused(other)
    assert "model.checkpoint abababababab... there, 579344248a93... here" in message
    assert "--weights lite=FILE" in message


def test_weights_of_ones_own_are_found_by_their_hash(tmp_path: Path) -> None:
    (spec,) = resolve(["lite:frames"], weights=RANDOM)
    assert "model.checkpoint random there" in refused(spec)
    check_reproducible(spec, RANDOM)


def test_another_revision_is_named() -> None:
    (spec,) = resolve(["lite:frames"])
    reader = spec.input.reader.model_copy(update={"revision": 1})  # type: ignore[union-attr]
    other = spec.model_copy(update={"input": spec.input.model_copy(update={"reader": reader})})
    message = refused(other)
    assert "(input.reader.revision 1 there, 2 here)" in message
    assert "train again" in message


def test_what_was_computed_elsewhere_cannot_be_made_of_new_clips() -> None:
    spec = ImportDescription("i3d", "video", "made up", dtype="float32").spec((3, 8))
    assert "'imported:i3d' was computed elsewhere" in refused(spec)
