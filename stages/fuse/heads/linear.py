"""What the baselines of scikit-learn share: a linear model is fitted outside, and its coefficients are the head."""

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
    """What is fitted on, and how."""

    inputs: Literal["both", "audio", "video"] = "both"
    """The modalities that it takes."""
    c: Annotated[float, Field(gt=0)] = 1.0
    """scikit-learn's C: the smaller, the more the coefficients are held down."""
    max_iter: Annotated[int, Field(ge=1)] = 1000
    """Iterations of the solver at most."""


class LinearHead(Head):
    """[video ; audio ; indicators] -> Linear -> logits: the mean frame (of a grid of tokens, its CLS or mean) and all
    audio images side by side (of a grid, its CLS or mean), standardised, and for each modality 1 where a clip lacks it.
    What an indicator weighs is what absence says; the features of a missing modality are 0.

    A target with one class a clip is one fit over its classes; of one with sigmoid each class has a fit of its own.
    Of two classes each has half of scikit-learn's one decision function, with opposite signs. Nothing can be fitted for
    a class that no fitted clip has: its logit is 100 below the mean of the others' on every clip, so that it is never
    the largest, or -100 with sigmoid (100 where every clip has the class).

    Of a recipe only `views` and `without` mean anything, and of cached views the first is fitted on.
    """

    fits_without_epochs = True
    recipe = Recipe(epochs=1, patience=1)

    class Options(LinearOptions):
        """Inputs, and how strongly and how long it is fitted."""

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
        """What scikit-learn is to fit: a classifier with coef_ and intercept_."""
        raise NotImplementedError

    def columns(self, prepared: Mapping[str, Tensor], present: Masks) -> Tensor:
        """What is multiplied with coefficients: float32 (B, columns), indicators last."""
        inputs = self.fill_missing(prepared, present)
        indicators = [_absent(present[name], x) for name, x in inputs.items()]
        return torch.cat([*inputs.values(), *indicators], dim=1)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.columns(prepared, present))}

    @torch.no_grad()
    def fit_without_epochs(
        self, prepared: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor], seed: int
    ) -> None:
        """Fit scikit-learn, one target after the other, and take its coefficients over. Warns, once, where it has not
        converged."""
        columns = self.columns(prepared, present).cpu().numpy().astype(np.float64)
        with _one_warning(f"head '{self.name}' has not converged after max_iter={self.options.max_iter}: give it more"):
            fitted = [
                self._of_target(target, columns, each.cpu().numpy(), seed)
                for target, each in zip(self.targets, truth, strict=True)
            ]
        rows = torch.from_numpy(np.concatenate(fitted))
        self.classifier.weight.copy_(rows[:, :-1])
        self.classifier.bias.copy_(rows[:, -1])

    def _of_target(
        self, target: LearnedTarget, columns: NDArray[np.float64], truth: NDArray[Any], seed: int
    ) -> NDArray[np.float64]:
        """Coefficients of its classes, the intercept last. columns (n, d), truth of n clips -> (C, d + 1)."""
        if target.sigmoid:
            return np.stack([self._of_class(columns, has, seed) for has in truth.T])
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

    def _of_class(self, columns: NDArray[np.float64], has: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """A class against all others. columns (n, d), has (n,) -> (d + 1,)."""
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
    """In place of any number of scikit-learn's warnings of fits that have not converged; others pass."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    others = [each for each in caught if not issubclass(each.category, ConvergenceWarning)]
    for each in others:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if len(others) < len(caught):
        warnings.warn(message, ConvergenceWarning, stacklevel=4)
