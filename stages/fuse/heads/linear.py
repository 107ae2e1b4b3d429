"""Base of the scikit-learn baselines: a fitted linear model, whose coefficients become the head's weights."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.shapes import InputLayout, ModalityShape
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads.base import Head, Masks

_FAR = 100.0


class LinearOptions(Settings):
    """Inputs, and how the model is fitted."""

    inputs: Literal["both", "audio", "video"] = "both"
    """The modalities that it takes."""
    c: Annotated[float, Field(gt=0)] = 1.0
    """scikit-learn's C, the inverse strength of regularisation."""
    max_iter: Annotated[int, Field(ge=1)] = 1000
    """Most iterations of the solver."""


class LinearHead(Head):
    """[video ; audio ; indicators] -> Linear -> logits: the mean frame (of a grid of tokens, its CLS or mean) and all
    audio images side by side (of a grid, its CLS or mean), standardised, and an indicator per modality, 1 where a clip
    lacks it. The features of a missing modality are 0, and the indicator's weight stands for them.

    A target with one class per clip is one fit over its classes; with sigmoid each class has its own fit. Of two
    classes each has half of scikit-learn's one decision function, with opposite signs. A class without a training clip
    has a logit 100 below the mean of the others', so that it is never the largest, or -100 with sigmoid (100 where
    every clip has the class).

    Of a recipe only `views` and `without` apply, and of cached views the first is fitted.
    """

    fits_without_epochs = True
    recipe = Recipe(epochs=1, patience=1)

    class Options(LinearOptions):
        """Inputs, C, iterations."""

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: LinearOptions) -> None:
        layouts: dict[str, InputLayout] = {
            name: "flatten" if name == "audio" and shape.grid is None else "pooled" for name, shape in shapes.items()
        }
        super().__init__(shapes, targets, layouts)
        self.options = options
        self.classifier = nn.Linear(sum(self.input(name).width + 1 for name in shapes), targets.width)

    @classmethod
    def used_modalities(cls, options: Settings) -> tuple[str, ...]:
        assert isinstance(options, LinearOptions)
        return cls.modalities if options.inputs == "both" else (options.inputs,)

    def estimator(self, seed: int) -> Any:
        """The scikit-learn classifier to fit, with coef_ and intercept_."""
        raise NotImplementedError

    def columns(self, prepared: Mapping[str, Tensor], present: Masks) -> Tensor:
        """Columns of the linear model: float32 (B, columns), indicators last."""
        inputs = self.fill_missing(prepared, present)
        indicators = [_absent(present[name], x) for name, x in inputs.items()]
        return torch.cat([*inputs.values(), *indicators], dim=1)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.columns(prepared, present))}

    @torch.no_grad()
    def fit_without_epochs(
        self, prepared: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor], seed: int
    ) -> None:
        """Fit scikit-learn target by target, and copy its coefficients. Warns once where it has not converged."""
        columns = self.columns(prepared, present).cpu().numpy().astype(np.float64)
        with _one_warning(f"head '{self.name}' has not converged after max_iter={self.options.max_iter}: give it more"):
            fitted = [
                self._fit_target(target, columns, of_target.cpu().numpy(), seed)
                for target, of_target in zip(self.targets, truth, strict=True)
            ]
        rows = torch.from_numpy(np.concatenate(fitted))
        self.classifier.weight.copy_(rows[:, :-1])
        self.classifier.bias.copy_(rows[:, -1])

    def _fit_target(
        self, target: LearnedTarget, columns: NDArray[np.float64], truth: NDArray[Any], seed: int
    ) -> NDArray[np.float64]:
        """Coefficients of a target's classes, the intercept last. columns (n, d), truth of n clips -> (C, d + 1)."""
        if target.sigmoid:
            return np.stack([self._fit_class(columns, has, seed) for has in truth.T])
        classes = truth.argmax(axis=1) if target.several else truth
        rows = np.zeros((len(target.classes), columns.shape[1] + 1))
        seen = np.unique(classes)
        if len(seen) > 1:
            decisions = self._decisions(columns, classes, seed)
            rows[seen] = np.concatenate([-decisions, decisions]) / 2 if len(seen) == 2 else decisions
        unseen = np.setdiff1d(np.arange(len(rows)), seen)
        rows[unseen] = rows[seen].mean(axis=0)
        rows[unseen, -1] -= _FAR
        return rows

    def _fit_class(self, columns: NDArray[np.float64], has: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Coefficients of one class against all others. columns (n, d), has (n,) -> (d + 1,)."""
        if has.all() or not has.any():
            return np.append(np.zeros(columns.shape[1]), _FAR if has.all() else -_FAR)
        return self._decisions(columns, has, seed)[0]

    def _decisions(self, columns: NDArray[np.float64], classes: NDArray[Any], seed: int) -> NDArray[np.float64]:
        """Coefficients of scikit-learn's decision functions, one for two classes, the intercept last."""
        model = self.estimator(seed).fit(columns, classes)
        return np.column_stack([model.coef_, model.intercept_])


def _absent(present: Tensor | None, features: Tensor) -> Tensor:
    """1 for clips without the modality, else 0. features (B, d) -> (B, 1)."""
    lacking = torch.zeros(len(features), device=features.device) if present is None else ~present
    return lacking[:, None].to(features.dtype)


@contextmanager
def _one_warning(message: str) -> Iterator[None]:
    """Replace any number of scikit-learn's convergence warnings by one; others pass."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    others = [warning for warning in caught if not issubclass(warning.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(others) < len(caught):
        warnings.warn(message, ConvergenceWarning, stacklevel=4)
