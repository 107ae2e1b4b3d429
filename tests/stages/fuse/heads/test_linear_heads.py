"""The baselines of scikit-learn: the head says what scikit-learn says, and what there is beyond it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import correct
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, get_head
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head

MakeData = Callable[..., FusionData]

CLIPS = 90
SHAPES = {"video": ModalityShape(3, 6), "audio": ModalityShape(2, 6)}
HAVE_BOTH = {name: torch.ones(CLIPS, dtype=torch.bool) for name in SHAPES}
ESTIMATORS = {"svc": LinearSVC, "logreg": LogisticRegression}
NAMES = list(ESTIMATORS)


def target(classes: int, several: bool = False, sigmoid: bool = False, name: str = "label") -> LearnedTarget:
    return LearnedTarget(name, tuple(f"{name}{number}" for number in range(classes)), several, sigmoid)


def clips(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(CLIPS, *shape[:2], generator=generator) for name, shape in SHAPES.items()}


def side_by_side(tokens: Mapping[str, Tensor]) -> np.ndarray:
    """What scikit-learn is to see of clips that have both."""
    return torch.cat([tokens["video"].mean(dim=1), tokens["audio"].flatten(1)], dim=1).double().numpy()


def drawn_classes(tokens: Mapping[str, Tensor], classes: int, seed: int = 0) -> Tensor:
    """Classes that features tell, not too well. int64 (n,)."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.from_numpy(side_by_side(tokens)).float()
    score = features @ torch.randn(features.shape[1], classes, generator=generator)
    return (score + 2 * torch.randn(score.shape, generator=generator)).argmax(dim=1)


def fitted(
    name: str,
    tokens: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    targets: Sequence[LearnedTarget],
    truth: Sequence[Tensor],
    **options: Any,
) -> Head:
    head = build_head(name, SHAPES, Targets(tuple(targets)), get_head(name).Options(**options)).eval()
    head.fit_without_epochs(head.prepare(tokens, present), present, truth, seed=0)
    return head


def logits_of(head: Head, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor] = HAVE_BOTH) -> Tensor:
    with torch.no_grad():
        return head.predict(tokens, present)["logits"]


def scikit(name: str, tokens: Mapping[str, Tensor], classes: Tensor, **given: Any) -> Any:
    return ESTIMATORS[name](max_iter=1000, random_state=0, **given).fit(side_by_side(tokens), classes.numpy())


def probabilities(logits: Tensor) -> np.ndarray:
    return logits.double().softmax(dim=1).numpy()


# What scikit-learn says


@pytest.mark.parametrize("c", [1.0, 0.01])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_those_of_scikit_learn(name: str, classes: int, c: float) -> None:
    tokens, others = clips(0), clips(1)
    truth = drawn_classes(tokens, classes)
    logits = logits_of(fitted(name, tokens, HAVE_BOTH, [target(classes)], [truth], c=c), others)
    model = scikit(name, tokens, truth, C=c)
    expected = model.predict(side_by_side(others))
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(logits.argmax(dim=1).numpy(), expected)
    if name == "logreg":
        np.testing.assert_allclose(probabilities(logits), model.predict_proba(side_by_side(others)), atol=1e-5)
    elif classes > 2:
        np.testing.assert_allclose(logits, model.decision_function(side_by_side(others)), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_each_target_is_fitted_for_itself(name: str) -> None:
    tokens = clips()
    targets = [target(3, name="verb"), target(2, name="noun"), target(4, name="place")]
    truth = [drawn_classes(tokens, len(each.classes), seed) for seed, each in enumerate(targets)]
    together = logits_of(fitted(name, tokens, HAVE_BOTH, targets, truth), tokens)
    alone = [
        logits_of(fitted(name, tokens, HAVE_BOTH, [one], [its_truth]), tokens)
        for one, its_truth in zip(targets, truth, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone, dim=1))


@pytest.mark.parametrize("name", NAMES)
def test_of_several_classes_a_clip_each_is_fitted_against_the_others(name: str) -> None:
    tokens, others = clips(0), clips(1)
    one, two = drawn_classes(tokens, 2, 0) == 0, drawn_classes(tokens, 2, 1) == 0
    truth = torch.stack([one, torch.zeros_like(one), two, torch.ones_like(one)], dim=1)
    logits = logits_of(fitted(name, tokens, HAVE_BOTH, [target(4, several=True, sigmoid=True)], [truth]), others)
    for number, has in ((0, one), (2, two)):
        model = scikit(name, tokens, has)
        np.testing.assert_allclose(logits[:, number], model.decision_function(side_by_side(others)), atol=1e-4)
    chances = logits.sigmoid()
    assert (chances[:, 1] < 1e-6).all()  # no fitted clip had it
    assert (chances[:, 3] > 1 - 1e-6).all()  # all had


@pytest.mark.parametrize("name", NAMES)
def test_of_one_class_a_clip_in_training_it_is_that_class(name: str) -> None:
    tokens = clips()
    classes = drawn_classes(tokens, 3)
    has = torch.nn.functional.one_hot(classes, 3).bool()
    several = logits_of(fitted(name, tokens, HAVE_BOTH, [target(3, several=True)], [has]), tokens)
    torch.testing.assert_close(several, logits_of(fitted(name, tokens, HAVE_BOTH, [target(3)], [classes]), tokens))


# Classes without clips


@pytest.mark.parametrize("occur", [[1, 3, 4], [1, 4], [3]])
@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_no_fitted_clip_has_is_never_predicted(name: str, occur: list[int]) -> None:
    tokens = clips()
    known = drawn_classes(tokens, len(occur)) if len(occur) > 1 else torch.zeros(CLIPS, dtype=torch.int64)
    truth = torch.tensor(occur)[known]
    head = fitted(name, tokens, HAVE_BOTH, [target(6)], [truth])
    far = {key: 1e4 * each for key, each in clips(1).items()}
    for those in (tokens, far):
        logits = logits_of(head, those)
        assert logits.isfinite().all()
        assert set(logits.argmax(dim=1).tolist()) <= set(occur)
    if name == "logreg" and len(occur) > 1:
        np.testing.assert_allclose(
            probabilities(logits_of(head, tokens))[:, occur],
            scikit(name, tokens, truth).predict_proba(side_by_side(tokens)),
            atol=1e-5,
        )


# Missing modalities


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_the_place_of_a_missing_modality_is_not_read(name: str) -> None:
    truth = drawn_classes(clips(), 3)
    present = {"video": torch.arange(CLIPS) % 5 != 0, "audio": torch.arange(CLIPS) % 7 != 1}
    outcomes = []
    for filling in (torch.nan, 1e6):
        tokens = clips()
        for key, its in present.items():
            tokens[key][~its] = filling
        head = fitted(name, tokens, present, [target(3)], [truth])
        outcomes.append((head.classifier.weight, logits_of(head, tokens, present)))
    assert outcomes[0][1].isfinite().all()
    torch.testing.assert_close(*outcomes, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_absence_has_a_weight_of_its_own(name: str) -> None:
    """The class is whether a clip has sound; nothing else tells it."""
    present = {
        "video": HAVE_BOTH["video"],
        "audio": torch.rand(CLIPS, generator=torch.Generator().manual_seed(0)) > 0.5,
    }
    truth = present["audio"].long()
    head = fitted(name, clips(), present, [target(2)], [truth], c=0.1)
    assert (logits_of(head, clips(1), present).argmax(dim=1) == truth).float().mean() > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_where_no_fitted_clip_lacks_a_modality_its_absence_says_nothing(name: str) -> None:
    head = fitted(name, clips(), HAVE_BOTH, [target(3)], [drawn_classes(clips(), 3)])
    assert (head.classifier.weight[:, -2:] == 0).all()
    average = {**clips(1), "audio": torch.zeros(CLIPS, *SHAPES["audio"][:2])}
    lacking = {**HAVE_BOTH, "audio": torch.zeros(CLIPS, dtype=torch.bool)}
    torch.testing.assert_close(logits_of(head, clips(1), lacking), logits_of(head, average))


# Training


def accuracy(data: FusionData, name: str, **given: Any) -> float:
    logits = train_head(name, data, 0, TrainingOverrides(**given)).logits
    return correct(logits, data.truth[0][data.test].numpy()).mean()


@pytest.mark.parametrize("name", NAMES)
def test_trained_on_both_it_finds_what_neither_holds_alone(make_data: MakeData, name: str) -> None:
    data = make_data()
    video, audio, both = (accuracy(data, name, inputs=inputs) for inputs in ("video", "audio", "both"))
    assert video < 0.45  # two of six classes look alike three times over
    assert audio < 0.6
    assert both > max(video, audio) + 0.2


def test_it_is_fitted_on_standardised_clips_of_train_and_validation(make_data: MakeData) -> None:
    data = make_data(missing=0.0)
    part = torch.cat([data.train, data.validation])
    tokens = {}
    for name, modality in data.modalities.items():
        seen = modality.tokens[part]
        tokens[name] = (modality.tokens - seen.mean(dim=0)) / seen.std(dim=0)
    columns = side_by_side(tokens)
    model = LogisticRegression(max_iter=1000).fit(columns[part], data.truth[0][part])
    trained = train_head("logreg", data, 0, TrainingOverrides())
    expected = model.predict_proba(columns[data.test])
    np.testing.assert_allclose(probabilities(torch.from_numpy(trained.logits)), expected, atol=1e-3)
    assert len(trained.curve) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", [{"inputs": "audio"}, {"without": "video"}])
def test_on_sound_alone_pictures_have_no_say(make_data: MakeData, name: str, given: dict[str, str]) -> None:
    data = make_data()
    video = data.modalities["video"]
    other = replace(data, modalities={**data.modalities, "video": replace(video, tokens=video.tokens.flip(0) * 9)})
    one, two = (train_head(name, each, 0, TrainingOverrides(**given)) for each in (data, other))
    np.testing.assert_array_equal(one.logits, two.logits)
    assert 0.3 < correct(one.logits, data.truth[0][data.test].numpy()).mean() < 0.6


def parity(data: FusionData) -> FusionData:
    """Two classes that only picture and sound together tell: whether one of them is of its second kind."""
    (classes,) = data.truth
    kept = {part: getattr(data, part)[classes[getattr(data, part)] < 4] for part in ("train", "validation", "test")}
    return replace(data, targets=Targets((target(2),)), truth=((classes % 2) ^ (classes // 2 % 2),), **kept)


def test_a_linear_model_cannot_tell_whether_two_modalities_agree(make_data: MakeData) -> None:
    every = [parity(make_data(clips_per_class=100, noise=0.3, missing=0.0, seed=seed)) for seed in range(4)]
    for name in NAMES:
        assert abs(np.mean([accuracy(data, name) for data in every]) - 0.5) < 0.1
    assert accuracy(every[0], "mlp", epochs=12) > 0.9


def test_weights_are_one_layer_that_is_saved_like_any_other(make_data: MakeData) -> None:
    data = make_data()
    head = train_head("svc", data, 0, TrainingOverrides()).head
    again = build_head("svc", data.shapes, data.targets)
    again.load_state_dict(head.state_dict())
    tokens = {name: each.tokens for name, each in data.modalities.items()}
    present = {name: each.present for name, each in data.modalities.items()}
    torch.testing.assert_close(logits_of(again, tokens, present), logits_of(head, tokens, present), rtol=0, atol=0)
    assert [name for name, _ in head.named_parameters() if not name.startswith("inputs.")] == [
        "classifier.weight",
        "classifier.bias",
    ]


# Solvers


@pytest.mark.parametrize("name", NAMES)
def test_a_solver_that_stops_early_says_so_once(name: str) -> None:
    tokens = clips()
    truth = torch.stack([drawn_classes(tokens, 2, seed) == 0 for seed in range(4)], dim=1)
    with pytest.warns(ConvergenceWarning, match=f"head '{name}' has not converged after max_iter=1: ") as caught:
        fitted(name, tokens, HAVE_BOTH, [target(4, several=True, sigmoid=True)], [truth], max_iter=1)
    assert len(caught) == 1


def test_a_solver_that_converges_says_nothing_and_other_warnings_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = clips()
    truth = drawn_classes(tokens, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted("logreg", tokens, HAVE_BOTH, [target(3)], [truth])
    fit = LogisticRegression.fit

    def warning(self: Any, *given: Any) -> Any:
        warnings.warn("something else", UserWarning, stacklevel=1)
        return fit(self, *given)

    monkeypatch.setattr(LogisticRegression, "fit", warning)
    with pytest.warns(UserWarning, match="something else"):
        fitted("logreg", tokens, HAVE_BOTH, [target(3)], [truth])
