"""Files of a run for people: plots and the page."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from manifests import Manifest
from pipeline.report import plots
from pipeline.report.examples import choose_examples
from pipeline.report.table import cells, chance_words, class_words, headings, measure_words, score_words
from stages.fuse.heads import get_head
from stages.fuse.runs import Run, head_of, results_table
from stages.fuse.table import Row, chance, notes
from stages.fuse.targets import LearnedTarget

_FRAME_WIDTH = 160
_CONFUSION_HEADS = 3


def write_results(run: Run, rows: list[Row], manifest: Manifest) -> list[Path]:
    """Plots and page into the run's folder. Returns all files for people there, results.csv included."""
    folder = run.folder
    figures = _figures(run, rows)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    page = write_page(run, rows, manifest, folder / "report.html")
    return [folder / "results.csv", *(folder / f"{name}.png" for name in figures), page]


def write_page(run: Run, rows: list[Row], manifest: Manifest, target: Path) -> Path:
    """One self-contained HTML page: table, plots, a few clips, and where everything came from."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("page.html.j2").render(
        run=run.described,
        classes=class_words(run.targets),
        chance=chance_words(run),
        score=measure_words(run.targets.measure),
        headings=headings(run.targets),
        rows=[cells(run.targets, row) for row in rows],
        summary=_summary(run, rows),
        notes=notes(run),
        head_summaries={row.label: get_head(head_of(row.label)).summary for row in rows},
        figures={name: _figure_address(figure) for name, figure in _figures(run, rows).items()},
        confusions=_confusions(run),
        all_shown=plots.ALL_SHOWN,
        most_errors=plots.MOST_ERRORS,
        provenance={name: value for name, value in run.described["manifest"].items() if name != "class_ids"},
        examples=[
            {
                "clip": example,
                "frames": [_address(_narrow(frame), "JPEG") for frame in example.frames]
                if example.frames is not None
                else [],
                "images": {name: _address(pixels, "PNG") for name, pixels in example.images.items()},
            }
            for example in choose_examples(run, manifest)
        ],
        results=results_table(run).round(4).to_csv(index=False),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html)
    return target


def _summary(run: Run, table: list[Row]) -> list[str]:
    """The main result in words, without more certainty than the intervals allow."""
    rows = {row.label: row for row in table}
    best = max(rows.values(), key=lambda row: row.score)
    sentences = [
        f"On {best.n_test} test clips of {class_words(run.targets)} {best.label} reaches "
        f"{100 * best.score:.1f} %{score_words(run.targets)} "
        f"(95 % interval {100 * best.low:.1f} to {100 * best.high:.1f})"
        + (
            f", the most of {len(rows)} heads; the highest of several is always a little flattered."
            if len(rows) > 1
            else "."
        )
    ]
    single = [rows[name] for name in ("audio", "video") if name in rows]
    if single and best not in single:
        alone = max(single, key=lambda row: row.score)
        sentences.append(
            f"The better single modality, {alone.label}, reaches {100 * alone.score:.1f} %: "
            f"fusion gains {100 * (best.score - alone.score):.1f} points."
        )
    return sentences


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
        return {"confusion-matrix": run.targets.each[0]}
    return {f"confusion-matrix-{re.sub(r'[^A-Za-z0-9_-]', '_', target.name)}": target for target in run.targets}


def _figure_address(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _data_address(buffer.getvalue(), "png")


def _address(pixels: NDArray[np.uint8], kind: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, quality=80)
    return _data_address(buffer.getvalue(), kind.lower())


def _data_address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _narrow(frame: NDArray[np.uint8]) -> NDArray[Any]:
    image = Image.fromarray(frame)
    return np.asarray(image.resize((_FRAME_WIDTH, max(1, round(image.height * _FRAME_WIDTH / image.width)))))
