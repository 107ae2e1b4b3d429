"""Plots of a run as matplotlib figures; none opens a window."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from avfuse.pipeline.report.results import measure_words
from avfuse.stages.fuse.evaluation.metrics import confusion
from avfuse.stages.fuse.runs.run_folder import Run, SeedResult

ALL_SHOWN = 40
"""A confusion matrix of more classes shows the `MOST_ERRORS` with the most errors."""
MOST_ERRORS = 30
_LONGEST_NAME = 28


def learning_curves(run: Run) -> Figure:
    """Validation score and loss per epoch: thin lines are seeds, thick ones their mean while all train."""
    score = measure_words(run.targets.selection)
    figure = Figure(figsize=(10, 4), layout="constrained")
    scores, losses = figure.subplots(1, 2)
    for index, (head, runs) in enumerate(run.heads.items()):
        colour = f"C{index}"
        _seeds_and_mean(scores, runs, "validation_score", colour, head, scale=100)
        _seeds_and_mean(losses, runs, "validation_loss", colour, head)
    title = "mAP" if score == "mAP" else "Accuracy"
    scores.set(xlabel="epoch", ylabel=f"validation {score} (%)", title=f"{title} on validation groups")
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Loss on validation groups", yscale="log")
    scores.legend(frameon=False, fontsize=8)
    for axes in (scores, losses):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def accuracy_bars(
    heads: list[str], score: list[float], low: list[float], high: list[float], chance: float, name: str
) -> Figure:
    """One bar per head for the score `name` with its interval, as shares of 1; a dotted line at chance."""
    figure = Figure(figsize=(10, 0.45 * len(heads) + 1), layout="constrained")
    axes = figure.subplots()
    values = 100 * np.array([score, low, high])
    errors = [np.maximum(values[0] - values[1], 0), np.maximum(values[2] - values[0], 0)]
    axes.barh(heads, values[0], xerr=errors, color=[f"C{i}" for i in range(len(heads))], capsize=3, height=0.65)
    axes.axvline(100 * chance, color="black", linestyle=":", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel=f"test {name} (%), 95 % interval; dotted: chance", xlim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_matrices(run: Run, heads: list[str], target: int = 0) -> Figure:
    """Row-normalised confusion matrices of one target, means over seeds, one per head. Of more than `ALL_SHOWN`
    classes they show those with the most errors of the best head, and a column for all others."""
    classes = list(run.targets[target].classes)
    matrices = [mean_confusion(run, head, target) for head in heads]
    rows = columns = classes
    if len(classes) > ALL_SHOWN:
        shown = most_errors(matrices, run.heads[heads[0]][0].truth[target])
        rows = [shortened(classes[index]) for index in shown]
        columns = [*rows, "(others)"]
        matrices = [select_classes(matrix, shown) for matrix in matrices]
    side = max(3.2, 0.24 * len(rows))
    figure = Figure(figsize=(side * len(heads) + 1.6, side + 1.2), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(heads), sharey=True))
    for axes, head, matrix in zip(all_axes, heads, matrices, strict=True):
        picture = axes.imshow(100 * matrix, vmin=0, vmax=100, cmap="Blues")
        axes.set(title=head, xlabel="predicted")
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
    all_axes[0].set_ylabel(
        "true class" if rows is classes else f"true class, {len(rows)} of {len(classes)}: most errors"
    )
    figure.colorbar(picture, ax=list(all_axes), label="% of the true class", shrink=0.8)
    return figure


def mean_confusion(run: Run, head: str, target: int) -> NDArray[np.float64]:
    """Mean over seeds of a head's `metrics.confusion`, (C, C)."""
    matrices = [confusion(run.targets.split(result.logits)[target], result.truth[target]) for result in run.heads[head]]
    return np.mean(matrices, axis=0)  # type: ignore[no-any-return]


def most_errors(matrices: list[NDArray[np.float64]], truth: NDArray[Any]) -> list[int]:
    """Classes with the most errors of the head that has the fewest, in the order of the classes."""
    classes = len(matrices[0])
    clips = truth.sum(axis=0) if truth.ndim == 2 else np.bincount(truth, minlength=classes)
    errors = min((clips * (1 - np.diagonal(matrix)) for matrix in matrices), key=np.sum)
    return sorted(np.argsort(-errors, kind="stable")[:MOST_ERRORS].tolist())


def select_classes(matrix: NDArray[np.float64], shown: list[int]) -> NDArray[np.float64]:
    """Rows and columns of some classes, and a last column for all others."""
    rows = matrix[shown]
    inside = rows[:, shown]
    return np.column_stack([inside, rows.sum(axis=1) - inside.sum(axis=1)])


def shortened(name: str) -> str:
    """A name shortened for an axis."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _seeds_and_mean(axes, runs: list[SeedResult], column: str, colour: str, label: str, scale: float = 1) -> None:  # type: ignore[no-untyped-def]
    for result in runs:
        axes.plot(result.curve["epoch"], scale * result.curve[column], color=colour, alpha=0.25, linewidth=0.8)
    shared = min(len(result.curve) for result in runs)
    mean = np.mean([result.curve[column].to_numpy()[:shared] for result in runs], axis=0)
    axes.plot(runs[0].curve["epoch"][:shared], scale * mean, color=colour, linewidth=2, label=label)
