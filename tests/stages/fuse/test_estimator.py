"""Heads as a scikit-learn classifier: the same training, and what scikit-learn asks of an estimator."""

import copy
import doctest
import pickle
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from avfuse.features.errors import UsageError
from avfuse.manifests.splits import group_holdout
from avfuse.stages.fuse import estimator
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.estimator import FusionClassifier
from avfuse.stages.fuse.heads import get_head, head_names
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head

MakeData = Callable[..., FusionData]
Rows = tuple[NDArray[np.float32], NDArray[Any]]

VIDEO, AUDIO = slice(0, 80), slice(80, 112)
QUICK = {"epochs": 8, "hidden": "32"}


def two(head: str | None = None, **more: Any) -> FusionClassifier:
    """Of the fixture's features: five frames and two audio images of 16 numbers."""
    given = {"settings": QUICK if head in (None, "mlp") else {"epochs": 2, "batch_size": 64}, "random_state": 3, **more}
    return FusionClassifier(head, modalities={"video": VIDEO, "audio": AUDIO}, tokens={"video": 5, "audio": 2}, **given)


def flat(data: FusionData) -> Rows:
    """All clips with something to see or hear, as one array, and their labels."""
    blocks = [data.modalities[name].tokens.flatten(1).numpy() for name in ("video", "audio")]
    X = np.concatenate(blocks, axis=1)
    kept = ~np.isnan(X).all(axis=1)
    return X[kept], data.table["label"].to_numpy()[kept]


@pytest.fixture(name="rows", scope="module")
def rows_fixture(make_data: MakeData) -> Rows:
    return flat(make_data(clips_per_class=25))


@pytest.fixture(name="fitted", scope="module")
def fitted_fixture(rows: Rows) -> FusionClassifier:
    return two().fit(*rows)


@pytest.mark.slow
@parametrize_with_checks([FusionClassifier()])
def test_scikit_learn_finds_nothing_amiss(estimator: FusionClassifier, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.slow
def test_scikit_learn_finds_nothing_amiss_of_other_parameters_either() -> None:
    other = FusionClassifier(
        "audio",
        modalities={"audio": slice(None)},
        settings={"hidden": "16", "lr": 1e-2, "epochs": 12},
        validation_fraction=0,
    )
    results = check_estimator(other, on_skip=None)
    assert {each["check_name"] for each in results if each["status"] != "passed"} <= {"check_array_api_input"}


def test_the_example_in_the_docstring_runs() -> None:
    assert doctest.testmod(estimator).attempted > 0
    assert doctest.testmod(estimator).failed == 0


@pytest.mark.parametrize("name", ["audio", "video", "average", "mlp", "crossattn", "bottleneck"])
def test_an_array_trains_the_head_that_the_trainer_trains(make_data: MakeData, name: str) -> None:
    data = make_data(clips_per_class=20, missing=0.0)
    X, y = flat(data)
    seen = torch.cat([data.train, data.validation]).sort().values
    fitted = two(name).fit(X[seen], y[seen])
    marked = torch.from_numpy(fitted.validation_)
    same = replace(data, train=seen[~marked], validation=seen[marked])
    trained = train_head(name, same, 3, TrainingOverrides(**(fitted.settings or {})))
    assert fitted.n_iter_ == trained.best_epoch
    np.testing.assert_allclose(fitted._logits(X[data.test]), trained.logits, atol=1e-4)


def test_a_clip_that_lacks_a_modality_is_what_it_is_to_the_trainer(make_data: MakeData) -> None:
    data = make_data(clips_per_class=20, missing=0.0)
    generator = np.random.default_rng(0)
    for number, modality in enumerate(data.modalities.values()):
        lacking = torch.from_numpy(generator.permutation(len(data.table)) % 5 == 0) & (data.truth[0] % 2 == number)
        modality.tokens[lacking] = float("nan")
        modality.present[lacking] = False
    X, y = flat(data)
    assert np.isnan(X).any()
    seen = torch.cat([data.train, data.validation]).sort().values
    fitted = two().fit(X[seen], y[seen])
    marked = torch.from_numpy(fitted.validation_)
    same = replace(data, train=seen[~marked], validation=seen[marked])
    trained = train_head("mlp", same, 3, TrainingOverrides(**QUICK))
    np.testing.assert_allclose(fitted.decision_function(X[data.test]), trained.logits, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in head_names() if get_head(name).fits_without_epochs])
@pytest.mark.parametrize("validation_fraction", [0.0, 0.2])
def test_heads_without_epochs_are_fitted_too(rows: Rows, name: str, validation_fraction: float) -> None:
    X, y = rows
    fitted = two(name, settings=None, validation_fraction=validation_fraction).fit(X, y)
    assert fitted.n_iter_ == 1
    assert fitted.score(X, y) > 0.5
    np.testing.assert_allclose(fitted.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize("name", ["audio", "video", "average", "mlp", "crossattn", "bottleneck"])
def test_what_is_said_of_a_clip_is_the_same_in_any_company(rows: Rows, name: str) -> None:
    X, y = rows
    fitted = two(name, settings={"epochs": 1, "batch_size": 64}).fit(X, y)
    one_by_one = np.concatenate([fitted.decision_function(row[None]) for row in X[:5]])
    np.testing.assert_allclose(one_by_one, fitted.decision_function(X)[:5], rtol=1e-9, atol=1e-9)


def test_many_rows_are_predicted_some_at_a_time(
    rows: Rows, fitted: FusionClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fitted.predict_proba(rows[0])
    monkeypatch.setattr(estimator, "_BATCH_ROWS", 7)
    np.testing.assert_allclose(fitted.predict_proba(rows[0]), expected, rtol=1e-9)


def test_probabilities_and_logits_are_those_of_the_classes_in_order(rows: Rows, fitted: FusionClassifier) -> None:
    X, y = rows
    probabilities, logits = fitted.predict_proba(X), fitted.decision_function(X)
    assert fitted.classes_.tolist() == sorted(set(y))
    assert probabilities.shape == logits.shape == (len(X), 6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(axis=1)], fitted.predict(X))
    np.testing.assert_array_equal(logits.argmax(axis=1), probabilities.argmax(axis=1))
    assert fitted.score(X, y) > 0.5


@pytest.mark.parametrize("labels", [["no", "yes"], [7, -2], [False, True], [0.0, 1.0], np.array(["a", "b"], object)])
def test_labels_are_of_any_kind(rows: Rows, labels: Any) -> None:
    X, y = rows
    own = np.asarray(labels)[(y > "class2").astype(int)]
    fitted = two(settings={"epochs": 3}).fit(X, own)
    assert set(fitted.predict(X)) <= set(labels)
    assert fitted.decision_function(X).shape == (len(X),)
    np.testing.assert_array_equal(fitted.decision_function(X) > 0, fitted.predict(X) == fitted.classes_[1])


def test_a_modality_that_is_not_there_has_no_say(rows: Rows, fitted: FusionClassifier) -> None:
    X = rows[0][:12].copy()
    X[:, AUDIO] = np.nan
    X = X[~np.isnan(X[:, 0])]
    head, nobody = copy.deepcopy(fitted.head_), torch.zeros(len(X), dtype=torch.bool)
    tokens = {"video": torch.from_numpy(X[:, VIDEO]).unflatten(1, (5, 16)), "audio": torch.randn(len(X), 2, 16) * 1e3}
    with torch.inference_mode():
        expected = head.predict(tokens, {"video": ~nobody, "audio": nobody})["logits"].numpy()
    np.testing.assert_allclose(fitted.decision_function(X), expected, atol=1e-4)


def test_a_head_trained_without_a_modality_predicts_without_it(rows: Rows) -> None:
    X, y = rows
    X = np.nan_to_num(X)
    fitted = two(settings={**QUICK, "without": "audio"}).fit(X, y)
    other = X.copy()
    other[:, AUDIO] = 5
    np.testing.assert_array_equal(fitted.predict_proba(X), fitted.predict_proba(other))


def test_the_order_of_a_modalitys_columns_is_the_users(rows: Rows, fitted: FusionClassifier) -> None:
    X, y = rows
    turned = np.concatenate([X[:, AUDIO], X[:, VIDEO]], axis=1)
    modalities = {"audio": list(range(32)), "video": np.arange(32, 112)}
    other = clone(fitted).set_params(modalities=modalities).fit(turned, y)
    np.testing.assert_array_equal(other.predict_proba(turned), fitted.predict_proba(X))


def test_one_modality_has_its_own_head(rows: Rows) -> None:
    X, y = np.nan_to_num(rows[0]), rows[1]
    assert FusionClassifier(settings={"epochs": 1}).fit(X, y).head_.name == "video"
    assert FusionClassifier(modalities={"audio": AUDIO}, settings={"epochs": 1}).fit(X, y).head_.name == "audio"
    assert two(settings={"epochs": 1}).fit(X, y).head_.name == "mlp"


def test_groups_are_kept_whole_as_the_command_line_keeps_them(rows: Rows) -> None:
    X, y = rows
    groups = np.array([f"video{number // 5}" for number in range(len(y))])
    fitted = two(random_state=0, settings={"epochs": 1}).fit(X, y, groups=groups)
    assert not set(groups[fitted.validation_]) & set(groups[~fitted.validation_])
    np.testing.assert_array_equal(fitted.validation_, group_holdout(y, groups, 0.2, 0))


@pytest.mark.parametrize("clips", [1, 2, 10])
def test_few_clips_are_trained_on_for_all_epochs(clips: int) -> None:
    X = np.random.default_rng(0).standard_normal((clips, 4)) + 5 * (np.arange(clips) % 3)[:, None]
    fitted = FusionClassifier(settings={"epochs": 17}, random_state=0).fit(X, np.arange(clips) % 3)
    assert fitted.n_iter_ == 17
    assert not fitted.validation_.any()


def test_a_head_that_starts_from_another_does_so_without_a_validation_part(rows: Rows) -> None:
    X, y = rows
    given = {"settings": {**QUICK, "epochs": 2}, "validation_fraction": 0}
    plain = two(**given).fit(X, y)
    started = two(**{**given, "settings": {**given["settings"], "init": "video"}}).fit(X, y)
    assert started.n_iter_ == 2
    assert not np.allclose(started.predict_proba(X), plain.predict_proba(X))


def test_the_same_random_state_gives_the_same_predictions(rows: Rows, fitted: FusionClassifier) -> None:
    X, y = rows
    np.testing.assert_array_equal(two().fit(X, y).predict_proba(X), fitted.predict_proba(X))
    by_generator = [two(random_state=np.random.RandomState(1)).fit(X, y).predict_proba(X) for _ in range(2)]
    np.testing.assert_array_equal(*by_generator)
    others = [two(random_state=seed).fit(X, y).predict_proba(X) for seed in (4, None, None)]
    assert not any(np.array_equal(each, fitted.predict_proba(X)) for each in others)
    assert not np.array_equal(others[1], others[2])


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_random_states_stay_as_they_were(rows: Rows, random_state: int | None) -> None:
    X, y = rows
    numbers, tensors = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    two(random_state=random_state, settings={"epochs": 1}).fit(X, y).predict(X)
    two(random_state=random_state, settings={"epochs": 1}, validation_fraction=0).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers[1])  # noqa: NPY002
    assert np.random.get_state()[2] == numbers[2]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), tensors)


def test_a_grid_search_tries_settings(rows: Rows) -> None:
    X, y = rows
    grid = [{"epochs": 10, "hidden": "32", "lr": lr} for lr in (1e-6, 1e-2)]
    search = GridSearchCV(two(), {"settings": grid}, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_ == {"settings": grid[1]}
    assert search.best_estimator_.recipe_.lr == 1e-2


def test_cross_validation_hands_groups_on(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = rows
    groups, seen = np.arange(len(y)) // 5, []
    monkeypatch.setattr(estimator, "group_holdout", lambda *given: seen.append(given[1]) or group_holdout(*given))
    quick = two(settings={"epochs": 1})
    scores = cross_val_score(quick, X, y, groups=groups, cv=GroupKFold(3), params={"groups": groups})
    assert len(scores) == len(seen) == 3
    assert all(len(set(each)) < len(each) for each in seen)


def test_it_ends_a_pipeline(rows: Rows) -> None:
    X, y = rows
    piped = make_pipeline(StandardScaler(), two()).fit(X, y)  # NaN goes through
    assert piped.score(X, y) > 0.5
    assert clone(piped)[-1].get_params() == piped[-1].get_params()


@pytest.mark.parametrize("name", ["mlp", "crossattn"])
def test_it_is_pickled_with_what_it_learned(rows: Rows, name: str) -> None:
    X, y = rows
    fitted, file = two(name, settings={"epochs": 1}).fit(X, y), BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    for copied in (pickle.loads(pickle.dumps(fitted)), joblib.load(file), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))


def test_only_of_several_modalities_one_may_lack(rows: Rows) -> None:
    assert two().__sklearn_tags__().input_tags.allow_nan
    for single in (FusionClassifier(), FusionClassifier(modalities={"video": VIDEO})):
        assert not single.__sklearn_tags__().input_tags.allow_nan
        with pytest.raises(ValueError, match="contains NaN"):
            single.fit(*rows)


def test_a_row_with_holes_is_refused_by_its_number(rows: Rows, fitted: FusionClassifier) -> None:
    X, y = np.nan_to_num(rows[0]), rows[1]
    partly, nothing, infinite = X.copy(), X.copy(), X.copy()
    partly[4, 90] = np.nan
    nothing[5] = np.nan
    infinite[6, 90] = np.inf
    for wrong, said in (
        (partly, "row 4 of X is NaN in some columns of audio"),
        (nothing, "row 5 of X"),
        (infinite, "inf"),
    ):
        with pytest.raises(ValueError, match=said):
            fitted.predict(wrong)
        with pytest.raises(ValueError, match=said):
            two().fit(wrong, y)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head": "nothing"}, "unknown fusion 'nothing'"),
        (
            {"head": "mlp", "modalities": {"video": VIDEO}},
            "head 'mlp' takes video and audio: name the columns of audio",
        ),
        ({"head": "audio"}, "head 'audio' takes audio"),
        ({"modalities": {"text": VIDEO}}, "no head takes a modality 'text': call it video or audio"),
        ({"modalities": {"video": slice(0, 200)}}, "modality 'video' is columns .* and X has 112: end it"),
        ({"modalities": {"video": [3, 112]}}, "modality 'video' is columns .* and X has 112: give a slice"),
        ({"modalities": {"video": slice(9, 9)}}, "modality 'video' is columns .* give one column or more"),
        ({"tokens": {"audio": 2}}, "tokens are given of 'audio'"),
        ({"tokens": {"video": 5}}, "its 112 columns do not make 5 tokens"),
        ({"tokens": {"video": 0}}, "its 112 columns do not make 0 tokens"),
        ({"settings": {"learning": 1}}, "no setting is called 'learning'"),
        ({"settings": {"lr": -1}}, "lr=-1"),
        ({"settings": {"shuffle_labels": True}}, "permutation_test_score"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"device": "abacus"}, "device 'abacus' is not on this machine"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(rows: Rows, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        FusionClassifier(**given).fit(np.nan_to_num(rows[0]), rows[1])
    assert "\n" not in str(error.value)
