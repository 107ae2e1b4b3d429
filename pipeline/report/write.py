"""Files of a run for people: plots and the page."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest, load_manifest
from avfuse.pipeline.output_paths import require_file
from avfuse.pipeline.report.figures import plots
from avfuse.pipeline.report.page import merge, write_page, write_table_page
from avfuse.pipeline.report.page.clips import PageOptions
from avfuse.pipeline.report.results import measure_words, print_table
from avfuse.pipeline.report.run_reference import RunRef, is_table, read_run_ref
from avfuse.stages.fuse.data.targets import LearnedTarget
from avfuse.stages.fuse.runs.restore import load_rows
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.runs.summary import Row, chance, summarise

_CONFUSION_HEADS = 3


def write_results(run: Run, rows: list[Row], manifest: Manifest, cache: Path) -> list[Path]:
    """Write plots and page into the run's folder. Returns the files that a user reads, results.csv among them."""
    folder = run.folder
    figures = _figures(run, rows)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    page = write_page(merge([RunRef(run, None)]), manifest, cache, folder / "report.html", PageOptions())
    return [folder / "results.csv", *(folder / f"{name}.png" for name in figures), page.path]


def write_report(names: Sequence[str], cache: Path, options: PageOptions, output: Path | None = None) -> Iterator[str]:
    """Write the page of a run, of several runs or rows of one data set, or of a table.

    Args:
        names: a run's folder or `FOLDER:ROW` each, or one table's folder.
        cache: of the features that heatmaps explain.
        output: the HTML file; by default it lies in the folder of the only run or table, else in the one around it.

    Yields lines to print: each run's table of results, then the page's path and size.

    Raises UsageError for a run named twice, a table beside others, runs with other test clips, an output that cannot be
    written.
    """
    if tables := [name for name in names if is_table(Path(name))]:
        if len(names) > 1:
            raise UsageError(f"{tables[0]} is a table, which has a page of its own: name it alone, or {tables[0]}:ROW")
        page = write_table_page(Path(tables[0]), require_file(output or Path(tables[0]) / "table.html", "-o"))
        yield f"{page}: {page.stat().st_size / 1e6:.1f} MB"
        return
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{duplicate} is named twice: once is enough")
    refs = [RunRef(load_rows(Path(name)), None) if Path(name).is_dir() else read_run_ref(name) for name in names]
    rows = merge(refs)
    is_whole_run = len(refs) == 1 and Path(names[0]).is_dir()
    folder = refs[0].run.folder if is_whole_run else refs[0].run.folder.parent
    target = require_file(output or folder / "report.html", "-o")
    manifest = load_manifest(cache, rows.runs[0].described["dataset"])
    yield from (print_table(run, summarise(run)) for run in rows.runs)
    yield write_page(rows, manifest, cache, target, options).words


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
    """Confusion matrix figures by file name, with their targets; a single target is not named."""
    if len(run.targets) == 1:
        return {"confusion-matrix": run.targets[0]}
    return {f"confusion-matrix-{re.sub(r'[^A-Za-z0-9_-]', '_', target.name)}": target for target in run.targets}
