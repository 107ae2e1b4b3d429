"""The alpha-transformer: what is done to which side, and that nothing undoes it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import correct
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head
from avfuse.stages.fuse.heads.alpha import AlphaTransformer, transform
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head

SHAPES = {"video": ModalityShape(3, 8), "audio": ModalityShape(2, 8)}
TARGETS = Targets((LearnedTarget("label", ("a", "b", "c")),))
HAVE_BOTH = {name: torch.ones(5, dtype=torch.bool) for name in SHAPES}


def built(shapes: dict[str, ModalityShape] = SHAPES, **options: object) -> Head:
    """Heads of any options have the same weights."""
    torch.manual_seed(0)
    return build_head("alpha", shapes, TARGETS, AlphaTransformer.Options(hidden="16", **options)).eval()


def clips(shapes: dict[str, ModalityShape] = SHAPES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(5, shape.length, shape.dim, generator=generator) for name, shape in shapes.items()}


def of_vectors(head: Head, video: Tensor, audio: Tensor) -> Tensor:
    return head.classifier(torch.cat([video, audio], dim=1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [-4.0, -0.25, 0.0, 0.25, 4.0, 9.0]),
        ("sqrt", [-2.0, -0.5, 0.0, 0.5, 2.0, 3.0]),
        ("sqrt_relu", [0.0, 0.0, 0.0, 0.5, 2.0, 3.0]),
        ("scalar", [-3.0, -0.1875, 0.0, 0.1875, 3.0, 6.75]),
    ],
)
def test_each_transform_value_by_value(name: str, expected: list[float]) -> None:
    x = torch.tensor([-4.0, -0.25, 0.0, 0.25, 4.0, 9.0], requires_grad=True)
    y = transform(x, name, 0.75)
    torch.testing.assert_close(y.detach(), torch.tensor(expected))
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_features_that_are_broken_are_not_hidden_by_a_root() -> None:
    for name in ("sqrt", "sqrt_relu"):
        assert transform(torch.tensor([torch.nan]), name, 1.0).isnan().all()


@pytest.mark.parametrize("name", ["none", "sqrt", "sqrt_relu", "scalar"])
@pytest.mark.parametrize("side", ["video", "audio"])
def test_one_side_is_transformed_and_the_other_is_not(name: str, side: str) -> None:
    head, tokens = built(transform=name, side=side, alpha=3.0), clips()
    pooled = {key: each.mean(dim=1) for key, each in tokens.items()}
    expected = of_vectors(head, **{**pooled, side: transform(pooled[side], name, 3.0)})
    torch.testing.assert_close(head.predict(tokens, HAVE_BOTH)["logits"], expected)


def test_tokens_that_stand_before_a_grid_are_the_vector() -> None:
    """CLS of TimeSformer, (CLS + distillation) / 2 of AST."""
    shapes = {"video": ModalityShape(1 + 4, 8, 1, (2, 2)), "audio": ModalityShape(2 + 6, 8, 2, (2, 3))}
    head, tokens = built(shapes), clips(shapes)
    expected = of_vectors(head, tokens["video"][:, 0], (tokens["audio"][:, 0] + tokens["audio"][:, 1]) / 2)
    torch.testing.assert_close(head.predict(tokens, HAVE_BOTH)["logits"], expected)


@pytest.mark.parametrize("name", ["sqrt", "sqrt_relu", "scalar"])
def test_what_stands_in_for_a_missing_modality_is_not_transformed(name: str) -> None:
    present = {"video": torch.tensor([True, False, True, True, True]), "audio": HAVE_BOTH["audio"]}
    tokens = clips()
    tokens["video"][1] = torch.nan
    logits = []
    for each in ("none", name):
        head = built(transform=each)
        with torch.no_grad():
            head.input("video").absent.copy_(torch.linspace(-3, 5, 8))
        logits.append(head.predict(tokens, present)["logits"])
    torch.testing.assert_close(logits[0][1], logits[1][1])
    assert not torch.isclose(logits[0][[0, 2, 3, 4]], logits[1][[0, 2, 3, 4]]).all(dim=1).any()


def test_a_filter_bank_is_refused() -> None:
    with pytest.raises(UsageError, match="audio:fbank is for mat"):
        built({**SHAPES, "audio": ModalityShape(1024, 8, raw=True)})


@pytest.mark.parametrize("given", [{"transform": "cube"}, {"side": "both"}, {"alpha": "0"}, {"hidden": "0"}])
def test_what_cannot_be_chosen_is_named(given: dict[str, str]) -> None:
    (name, value) = next(iter(given.items()))
    with pytest.raises(UsageError, match=f"{name}={value}: "):
        TrainingOverrides(**given).check(["alpha"])


def test_it_is_trained_as_published() -> None:
    recipe, options = TrainingOverrides().recipe("alpha"), TrainingOverrides().options("alpha")
    assert (recipe.lr, recipe.weight_decay, recipe.batch_size, recipe.epochs) == (1e-4, 0, 8, 25)
    assert options.model_dump() == {
        "hidden": "1024x512",
        "dropout": 0.5,
        "transform": "none",
        "alpha": 1.5,
        "side": "video",
    }


def test_training_learns_from_both_and_feels_the_scalar(make_data: Callable[..., FusionData]) -> None:
    data = make_data()
    quick = TrainingOverrides(epochs=5, lr=1e-3, hidden="64")
    plain, scaled = (
        train_head("alpha", data, 0, quick.updated({"transform": each, "alpha": 20.0})) for each in ("none", "scalar")
    )
    reached = correct(plain.logits, data.truth[0][data.test].numpy()).mean()
    assert reached > 0.75  # the picture alone tells a third of the classes, the sound alone half
    assert np.abs(plain.logits - scaled.logits).max() > 0.5
    modality_input = plain.head.input("video")
    assert not modality_input.mean.any()
    assert (modality_input.deviation == 1).all()
