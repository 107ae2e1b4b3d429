"""The heads as a scikit-learn classifier: one array of features in, the same training behind it."""

import copy
import secrets
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.manifests.splits import group_holdout
from avfuse.stages.device import choose_device
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality
from avfuse.stages.fuse.evaluation.metrics import mean_probabilities
from avfuse.stages.fuse.heads import Head, get_head, head_names
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_jobs

_ONLY = "video"
"""The modality of all columns where none are named; the head of this name is an MLP on them."""

_BATCH_ROWS, _BATCH_BYTES = 1024, 2**28
"""A batch has at most so many rows and bytes in prediction."""

Columns = Mapping[str, NDArray[np.int64]]
"""The columns (T, D) of X that hold each modality."""


class FusionClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Any fusion head on one array of features, in pipelines, cross-validation and grid searches.

    A row of X is a clip, and `modalities` says which columns are of which modality. With several modalities a clip may
    lack one: all its columns are NaN. Heads and training are those of the command line: the number of epochs is chosen
    on a part of the training clips, and the head is refitted on all of them. Where that part has fewer clips than there
    are classes the best epoch would be chance, and the head trains for all epochs.

    Columns have no grids or filter banks: use the command line for heads that need these. Neither numpy's nor torch's
    global random state is used or changed.

    Parameters
    ----------
    head : str, optional
        Name of a head, such as "crossattn". By default "mlp" for several modalities, and for one the head of its name,
        an MLP as well.
    modalities : mapping of str to slice or column numbers, optional
        The columns of "video", of "audio" or of both, such as {"video": slice(0, 1024), "audio": slice(1024, 2560)}.
        By default all columns are one modality, "video".
    tokens : mapping of str to int, optional
        The number of tokens (frames, audio images) in the columns of a modality, one after the other; by default 1.
    settings : mapping, optional
        Changes to the head's own recipe and options, such as {"lr": 1e-4, "epochs": 20, "hidden": "64"}.
    validation_fraction : float, default=0.2
        Share of the training clips that the number of epochs is chosen on; with 0 the head trains for all epochs.
    random_state : int, RandomState or None, default=None
        Seed of weights, order of clips, dropout and the validation part; None draws a new one each time.
    device : str, default="cpu"
        Where to train and predict: "cpu", "cuda", "cuda:1" or "auto".

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where X is a data frame with names that are strings.
    modalities_ : dict of str to ndarray of shape (n_tokens, n_dimensions)
        The columns of each modality.
    validation_ : ndarray of bool, shape (n_samples,)
        The training clips that the number of epochs was chosen on.
    n_iter_ : int
        Epochs that the head was trained for; 1 for heads that are fitted without epochs.
    recipe_ : Recipe
        How it was trained: the head's own recipe with `settings`.
    head_ : Head
        The fitted torch module, on the CPU.

    Examples
    --------
    >>> import numpy as np
    >>> from avfuse.stages.fuse.estimator import FusionClassifier
    >>> generator = np.random.default_rng(0)
    >>> y = np.repeat(["sing", "dance"], 50)
    >>> X = generator.standard_normal((100, 12)) + 3 * (y == "sing")[:, None]
    >>> X[7, 8:] = np.nan  # a clip without sound
    >>> clf = FusionClassifier(modalities={"video": slice(0, 8), "audio": slice(8, 12)}, random_state=0)
    >>> clf.fit(X, y).predict(X[[0, 99]])
    array(['sing', 'dance'], dtype='<U5')
    """

    def __init__(
        self,
        head: str | None = None,
        *,
        modalities: Mapping[str, Any] | None = None,
        tokens: Mapping[str, int] | None = None,
        settings: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.head = head
        self.modalities = modalities
        self.tokens = tokens
        self.settings = settings
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._may_miss_one
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train the head.

        Args:
            X: (n, features).
            y: (n,), labels of any kind.
            groups: (n,); clips of one group, such as one video or one speaker, are all trained on or all validated on.

        Raises:
            ValueError: X, y or groups are invalid.
            UsageError: a parameter is invalid.
        """
        clips: NDArray[np.float32]
        labels: NDArray[Any]
        clips, labels = validate_data(self, X, y, dtype=np.float32, ensure_all_finite=self._finiteness)
        check_classification_targets(labels)
        groups = np.arange(len(clips)) if groups is None else column_or_1d(groups)
        check_consistent_length(clips, groups)
        head, training = self._head(), self._training()
        columns = _columns(self.modalities or {_ONLY: slice(None)}, self.tokens or {}, clips.shape[1])
        _check_head(head, training, columns)
        seed = _seed(self.random_state)
        validation = _validation(labels, groups, self.validation_fraction, seed)
        data = _data(_modalities(clips, columns), labels, groups, validation, choose_device(self.device))
        job = TrainingJob.of(head, data, seed, training)
        (trained,) = train_jobs([job])
        trained.head.zero_grad(set_to_none=True)
        self.classes_, self.modalities_, self.validation_ = np.unique(labels), columns, validation
        self.head_, self.recipe_, self.n_iter_ = trained.head.cpu(), job.recipe, max(1, trained.best_epoch)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits (n, n_classes); with two classes (n,), the second one's minus the first one's."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n, n_classes) in the order of `classes_`; rows sum to 1."""
        logits = self._logits(X)  # checks that it is fitted
        return mean_probabilities(self.head_.targets, [logits])[0]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label (n,) of each row."""
        likeliest = self._logits(X).argmax(axis=1)
        return self.classes_[likeliest]

    @property
    def _may_miss_one(self) -> bool:
        return self.modalities is not None and len(self.modalities) > 1

    @property
    def _finiteness(self) -> bool | str:
        """The `ensure_all_finite` of validate_data."""
        return "allow-nan" if self._may_miss_one else True

    def _head(self) -> str:
        if self.head is not None:
            get_head(self.head)
            return self.head
        return "mlp" if self._may_miss_one else next(iter(self.modalities or (_ONLY,)))

    def _training(self) -> TrainingOverrides:
        given = dict(self.settings or {})
        if "shuffle_labels" in given:
            raise UsageError("shuffle_labels is no setting here: scikit-learn's permutation_test_score is the control")
        return TrainingOverrides(**given)

    def _logits(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits (n, n_classes), in double precision: a row's then do not depend on the rows beside it, not even in the
        last digit of a float32."""
        check_is_fitted(self)
        clips: NDArray[np.float32] = validate_data(
            self, X, dtype=np.float32, ensure_all_finite=self._finiteness, reset=False
        )
        modalities = _modalities(clips, self.modalities_)
        device = choose_device(self.device)
        head = copy.deepcopy(self.head_).to("cpu" if device == "mps" else device, torch.float64)  # mps has no doubles
        batch_size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (8 * clips.shape[1])))
        with torch.inference_mode():
            batches = torch.arange(len(clips)).split(batch_size)
            logits = [_predict(head, modalities, rows, self.recipe_.without) for rows in batches]
        return torch.cat(logits).numpy()


def _columns(modalities: Mapping[str, Any], tokens: Mapping[str, int], width: int) -> dict[str, NDArray[np.int64]]:
    """The columns (T, D) of each modality.

    Args:
        modalities: a slice or column numbers, by name.
        tokens: T, by name.
        width: the number of columns of X.

    Raises:
        UsageError: for names that no head knows, and for columns that X lacks or that make no tokens.
    """
    known = sorted({name for head in head_names() for name in get_head(head).modalities}, reverse=True)
    for name in (*modalities, *tokens):
        if name not in known:
            raise UsageError(f"no head takes a modality '{name}': call it {' or '.join(known)}")
    if stray := next((name for name in tokens if name not in modalities), None):
        raise UsageError(f"tokens are given of '{stray}', which is not among modalities: name its columns there")
    columns = {}
    for name, selection in modalities.items():
        numbers = _column_numbers(name, selection, width)
        count = tokens.get(name, 1)
        if count < 1 or len(numbers) % count:
            raise UsageError(f"tokens of {name}: its {len(numbers)} columns do not make {count} tokens of equal width")
        columns[name] = numbers.reshape(count, -1)
    return columns


def _column_numbers(name: str, selection: Any, width: int) -> NDArray[np.int64]:
    """Column numbers (k,)."""
    selected = f"modality '{name}' is columns {selection}, and X has {width}"
    if isinstance(selection, slice) and (selection.stop or 0) > width:
        raise UsageError(f"{selected}: end it at {width} or earlier")
    try:
        numbers = np.arange(width)[selection]
    except (IndexError, TypeError) as error:
        raise UsageError(f"{selected}: give a slice or column numbers below {width}") from error
    if numbers.ndim != 1 or len(numbers) == 0:
        raise UsageError(f"{selected}: give one column or more, as a slice or a list")
    return numbers


def _check_head(head: str, training: TrainingOverrides, columns: Columns) -> None:
    """Raises UsageError for settings that the head does not have, and where a modality that it uses is missing."""
    training.check([head])
    used = get_head(head).used_modalities(training.options(head))
    missing = [name for name in used if name not in columns]
    if missing:
        raise UsageError(
            f"head '{head}' takes {' and '.join(used)}: name the columns of {' and '.join(missing)} in modalities"
        )


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """The seed of a random state; for None a new one, not from numpy's global state as scikit-learn has it. Raises
    ValueError for anything else."""
    if random_state is None:
        return secrets.randbits(31)
    if isinstance(random_state, int | np.integer):
        check_random_state(random_state)
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _validation(labels: NDArray[Any], groups: NDArray[Any], fraction: float, seed: int) -> NDArray[np.bool_]:
    """The clips that the number of epochs is chosen on, bool (n,), drawn as on the command line; none where they would
    be fewer than the classes."""
    if not 0 <= fraction < 1:
        raise UsageError(f"validation_fraction={fraction}: give a share from 0, none, to less than 1")
    held_out = group_holdout(labels, groups, fraction, seed) if fraction else np.zeros(len(labels), dtype=bool)
    enough = len(np.unique(labels)) <= held_out.sum() < len(held_out)
    return held_out if enough else np.zeros_like(held_out)


def _modalities(X: NDArray[np.float32], columns: Columns) -> dict[str, Modality]:
    """The modalities of the rows. Raises ValueError for a row in which one is NaN in part, or all are NaN."""
    modalities = {name: _modality(name, X[:, numbers]) for name, numbers in columns.items()}
    empty = ~torch.stack([modality.present for modality in modalities.values()]).any(dim=0)
    if empty.any():
        raise ValueError(f"row {int(empty.int().argmax())} of X is NaN in every modality: leave it out")
    return modalities


def _modality(name: str, tokens: NDArray[np.float32]) -> Modality:
    """A modality of tokens (n, T, D), NaN where a clip lacks it; they are not copied."""
    missing = np.isnan(tokens)
    absent = missing.all(axis=(1, 2))
    partly = missing.any(axis=(1, 2)) & ~absent
    if partly.any():
        raise ValueError(
            f"row {partly.argmax()} of X is NaN in some columns of {name} and not in others: "
            f"fill them in, or set all of them to NaN where a clip has no {name}"
        )
    return Modality(torch.from_numpy(tokens), torch.from_numpy(~absent), ())


def _data(
    modalities: Mapping[str, Modality],
    labels: NDArray[Any],
    groups: NDArray[Any],
    validation: NDArray[np.bool_],
    device: str,
) -> FusionData:
    """Training data without test clips."""
    classes, truth = np.unique(labels, return_inverse=True)
    splits = np.where(validation, "val", "train")
    return FusionData.from_arrays(modalities, truth, list(map(str, classes)), splits, groups, device)


def _predict(head: Head, modalities: Mapping[str, Modality], rows: Tensor, without: str | None) -> Tensor:
    """Logits float64 (len(rows), n_classes) on the CPU. without: the modality that the head was trained without."""
    device = next(head.parameters()).device
    prepared, present = {}, {}
    for name, modality_input in head.modality_inputs().items():
        modality = modalities[name]
        present[name] = modality.present[rows].to(device) & (name != without)
        tokens, has = modality.tokens[rows].to(device), modality.present[rows].to(device)
        prepared[name] = modality_input.prepare(tokens, has).double()
    logits: Tensor = head(prepared, present)["logits"]
    return logits.double().cpu()
