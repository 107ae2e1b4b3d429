"""Plots of a run, as matplotlib figures. Nothing here shows a window."""

import numpy as np
from matplotlib.figure import Figure

from stages.fuse.experiment import HeadRun, Run
from stages.fuse.metrics import confusion


def learning_curves(run: Run) -> Figure:
    """Validation accuracy and losses per epoch: thin lines are seeds, thick ones their mean while all still train."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for index, (head, runs) in enumerate(run.heads.items()):
        colour = f"C{index}"
        _seeds_and_mean(accuracy, runs, "validation_top1", colour, head, scale=100)
        _seeds_and_mean(loss, runs, "validation_loss", colour, head)
    accuracy.set(xlabel="epoch", ylabel="validation top-1 (%)", title="Accuracy on validation groups")
    loss.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Loss on validation groups", yscale="log")
    accuracy.legend(frameon=False, fontsize=8)
    for axes in (accuracy, loss):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def accuracy_bars(heads: list[str], top1: list[float], low: list[float], high: list[float], chance: float) -> Figure:
    """Top-1 with its interval, one bar a head; the dotted line is chance. Shares of 1."""
    figure = Figure(figsize=(10, 0.45 * len(heads) + 1), layout="constrained")
    axes = figure.subplots()
    values = 100 * np.array([top1, low, high])
    errors = [np.maximum(values[0] - values[1], 0), np.maximum(values[2] - values[0], 0)]
    axes.barh(heads, values[0], xerr=errors, color=[f"C{i}" for i in range(len(heads))], capsize=3, height=0.65)
    axes.axvline(100 * chance, color="black", linestyle=":", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel="test top-1 (%), 95 % interval; dotted: chance", xlim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_matrices(run: Run, heads: list[str]) -> Figure:
    """Mean over seeds of each head's row-normalised confusion matrix, side by side."""
    classes = run.classes
    side = max(3.2, 0.24 * len(classes))
    figure = Figure(figsize=(side * len(heads) + 1.6, side + 1.2), layout="constrained")
    every_axes = np.atleast_1d(figure.subplots(1, len(heads), sharey=True))
    for axes, head in zip(every_axes, heads, strict=True):
        mean = np.mean([confusion(one.logits, one.targets) for one in run.heads[head]], axis=0)
        picture = axes.imshow(100 * mean, vmin=0, vmax=100, cmap="Blues")
        axes.set(title=head, xlabel="predicted")
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    every_axes[0].set_ylabel("true class")
    figure.colorbar(picture, ax=list(every_axes), label="% of the true class", shrink=0.8)
    return figure


def _seeds_and_mean(axes, runs: list[HeadRun], column: str, colour: str, label: str, scale: float = 1) -> None:  # type: ignore[no-untyped-def]
    for one in runs:
        axes.plot(one.curve["epoch"], scale * one.curve[column], color=colour, alpha=0.25, linewidth=0.8)
    shared = min(len(one.curve) for one in runs)
    mean = np.mean([one.curve[column].to_numpy()[:shared] for one in runs], axis=0)
    axes.plot(runs[0].curve["epoch"][:shared], scale * mean, color=colour, linewidth=2, label=label)
