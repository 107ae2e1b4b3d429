"""Files of a run for people: plots and the page."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from avfuse.manifests import Manifest
from avfuse.pipeline.report.figures import plots
from avfuse.pipeline.report.page import merge, write_page
from avfuse.pipeline.report.page.clips import PageOptions
from avfuse.pipeline.report.results import measure_words
from avfuse.pipeline.report.run_reference import RunRef
from avfuse.stages.fuse.data.targets import LearnedTarget
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.runs.summary import Row, chance

_CONFUSION_HEADS = 3


def write_results(run: Run, rows: list[Row], manifest: Manifest, cache: Path) -> list[Path]:
    """Plots and page into the run's folder. Returns all files for people there,
    results.csv included."""
    folder = run.folder
    figures = _figures(run, rows)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    page = write_page(merge([RunRef(run, None)]), manifest, cache, folder / "report.html", PageOptions())
    return [folder / "results.csv", *(folder / f"{name}.png" for name in figures), page.path]


def _figures(run: Run, rows: list[Row]) -> dict[str, Figure]:
    shown = [row.label for row in sorted(rows, key=lambda row: row.label not in ("audio", "video"))]
    joint = [row.label for row in sorted(rows, key=lambda row: -row.score) if row.label not in ("audio", "video")]
    compared = [*(head for head in shown if head in ("audio", "video")), *joint][:_CONFUSION_HEADS]
    return {
        "accuracy": plots.accuracy_bars(
            [row.label for row in rows],
            [row.score for row in rows],
            [row.low for row in rows],
            [row.high for row in rows],
            chance=chance(run),
            name=measure_words(run.targets.measure),
        ),
        "learning-curves": plots.learning_curves(run),
        **{name: plots.confusion_matrices(run, compared, number) for number, name in enumerate(_confusions(run))},
    }


def _confusions(run: Run) -> dict[str, LearnedTarget]:
    """Names of the figures of confusion matrices, with what they are of; the only target needs no name."""
    if len(run.targets) == 1:
        return {"confusion-matrix": run.targets[0]}
    return {f"confusion-matrix-{re.sub(r'[^A-Za-z0-9_-]', '_', target.name)}": target for target in run.targets}
