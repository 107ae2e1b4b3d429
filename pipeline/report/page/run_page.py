"""The page of one run, or of several over the same test clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from avfuse.manifests import Manifest
from avfuse.pipeline.report.figures import plots
from avfuse.pipeline.report.page import charts, clips, provenance
from avfuse.pipeline.report.page import summary as words
from avfuse.pipeline.report.page.clips import PageOptions
from avfuse.pipeline.report.page.colours import row_styles
from avfuse.pipeline.report.page.document import json_island, render
from avfuse.pipeline.report.page.rows import PageRows
from avfuse.pipeline.report.page.tables import Cell, PageTable, cell
from avfuse.pipeline.report.results import cells, chance_words, class_words, headings, measure_words
from avfuse.stages.fuse.analysis.class_gains import class_gains
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.runs.run_folder import results_table
from avfuse.stages.fuse.runs.summary import chance

MOST_ROWS = 12
"""Gains by class are given between this many of the best rows."""
_SHARE_OF_LINES = 0.6
"""Largest share of the remaining bytes for the list of clips."""


@dataclass(frozen=True)
class WrittenPage:
    """A page that was written."""

    path: Path
    bytes: int
    clips: int  # number of test clips
    listed: int  # of them, on the page
    with_media: int  # of them, with pictures and sound

    @property
    def words(self) -> str:
        shown = f"{self.with_media} of {self.clips} test clips with pictures and sound"
        left_out = f", {self.clips - self.listed} not listed" if self.listed < self.clips else ""
        return f"{self.path}: {self.bytes / 1e6:.1f} MB, {shown}{left_out}"


def write_page(page: PageRows, manifest: Manifest, cache: Path, target: Path, options: PageOptions) -> WrittenPage:
    """Write results, figures, a clip explorer and provenance as one HTML file, with as many clips as fit.

    Args:
        page: rows to show.
        manifest: where the clips' media are.
        cache: of the features that heatmaps explain.
        target: the file.
    """
    context, islands = _context(page, options), _islands(page)
    lines = clips.listed(page)
    room = options.bytes - len(_rendered(context, islands, page, [], {}, cut=True).encode())
    fitting = clips.fitting(lines, int(_SHARE_OF_LINES * room))
    room -= len(json_island(fitting))
    ids, media, cut = {line["id"] for line in fitting}, {}, False
    for clip_id, record in clips.with_media(page, manifest, cache, options):
        room -= len(json_island({clip_id: record}))
        if cut := room < 0:
            break
        if clip_id in ids:
            media[clip_id] = record
    html = _rendered(context, islands, page, fitting, media, cut)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")
    return WrittenPage(target, len(html.encode()), len(lines), len(fitting), len(media))


def _rendered(
    context: Mapping[str, Any],
    islands: Mapping[str, Any],
    page: PageRows,
    lines: Sequence[Mapping[str, Any]],
    media: Mapping[str, Any],
    cut: bool,
) -> str:
    """The page's HTML. cut: whether clips are missing because the page would become too large."""
    counts = {"listed": len(lines), "clips": len(page.first.clip_ids), "with_media": len(media), "cut": cut}
    explorer = {"clips": lines, "media": media}
    return render("run.html.j2", {**context, "counts": counts}, {**islands, "explorer": explorer})


def _context(page: PageRows, options: PageOptions) -> dict[str, Any]:
    first, name = page.runs[0].described, page.runs[0].described["dataset"]
    several = len(page.runs) > 1
    styles = row_styles([row.name for row in page.rows])
    return {
        "title": f"{name}: {', '.join(str(run.folder.name) for run in page.runs)}",
        "heading": name,
        "kind": "Runs compared" if several else f"Run {page.runs[0].folder.name}",
        "clips": first["clips"],
        "classes": class_words(page.targets),
        "chance": chance_words(page.merged),
        "created": [run.described["created"] for run in page.runs],
        "untrained": page.untrained,
        "shuffled": page.shuffled,
        "summary": words.summary(page),
        "results": results(page, styles),
        "notes": words.table_notes(page),
        "summaries": {row.name: get_head(row.heads[0].head).summary for row in page.rows},
        "measure": measure_words(page.targets.measure),
        "targets": tuple(page.targets),
        "all_shown": plots.ALL_SHOWN,
        "most_errors": plots.MOST_ERRORS,
        "has_curves": bool(_curves(page)),
        "has_gains": len(page.rows) > 1,
        "capped_gains": MOST_ROWS if len(page.rows) > MOST_ROWS else 0,
        "options": options,
        "features": provenance.feature_table(
            (spec for run in page.runs for specs in run.described["features"].values() for spec in specs),
            f"{name}-features",
        ),
        "settings": provenance.settings_table(
            [(row.name, row.heads[0].described["recipe"], row.heads[0].described["options"]) for row in page.rows],
            f"{name}-settings",
        ),
        "run_facts": [(str(run.folder), provenance.run_facts(run)) for run in page.runs],
        "excluded": {clip: why for run in page.runs for clip, why in run.described["clips"]["excluded"].items()},
        "seeds_csv": "\n".join(results_table(run).round(4).to_csv(index=False) for run in page.runs),
    }


def results(page: PageRows, styles: Mapping[str, Any]) -> PageTable:
    """Table of the results of all rows."""
    names = headings(page.targets)
    rows = [[Cell(summary.label), *map(cell, cells(page.targets, summary)[1:])] for summary in page.summaries]
    meanings = {name: words.MEANINGS.get(name, f"{name}: share of test clips.") for name in names}
    file = f"{page.runs[0].described['dataset']}-results"
    colours = {name: style.colour for name, style in styles.items()}
    return PageTable("results", "Scores on the test clips", names, rows, file, meanings, colours=colours)


def _curves(page: PageRows) -> dict[str, Any]:
    return {row.name: [result.curve for result in row.heads] for row in page.rows if len(row.heads[0].curve) > 1}


def _islands(page: PageRows) -> dict[str, Any]:
    styles = row_styles([row.name for row in page.rows])
    targets, name = page.targets, page.runs[0].described["dataset"]
    bars = charts.score_bars(
        [charts.ScoreBar(row.label, row.score, row.low, row.high) for row in page.summaries],
        styles,
        measure_words(targets.measure),
        chance(page.merged),
        f"{name}-scores",
    )
    figures = {"scores": bars.described()}
    curves = charts.learning_curves(_curves(page), styles, measure_words(targets.selection))
    figures |= {f"curves-{kind}": chart.described() for kind, chart in curves.items()}
    confusions = [_confusion(page, number) for number in range(len(targets))]
    figures |= {f"confusion-{number}": chart.described() for number, (chart, _) in enumerate(confusions)}
    if len(page.rows) > 1:
        figures["gains"] = charts.gains_bars(f"{name}-gains").described()
    return {
        "page": {
            "rows": [
                {"name": row.name, "colour": styles[row.name].colour, "seeds": len(row.heads)} for row in page.rows
            ],
            "targets": [
                {"name": target.name, "classes": list(target.classes), "several": target.several} for target in targets
            ],
            "confusions": [axes for _, axes in confusions],
            "gains": _gains(page) if len(page.rows) > 1 else None,
        },
        "figures": figures,
    }


def _confusion(page: PageRows, target: int) -> tuple[charts.Chart, dict[str, Any]]:
    """Confusion matrices of all rows for one target, and the classes that they show."""
    merged, names = page.merged, [row.name for row in page.rows]
    truth = page.first.truth[target]
    classes = list(page.targets[target].classes)
    counts = truth.sum(axis=0) if truth.ndim == 2 else np.bincount(truth, minlength=len(classes))
    matrices = {name: plots.mean_confusion(merged, name, target) for name in names}
    rows = columns = list(range(len(classes)))
    if len(classes) > plots.ALL_SHOWN:
        rows = plots.most_errors(list(matrices.values()), truth)
        matrices = {name: plots.select_classes(matrix, rows) for name, matrix in matrices.items()}
        columns = [*rows, -1]
    clips_of = {name: matrix * counts[rows][:, None] for name, matrix in matrices.items()}
    labels = _short([classes[index] for index in rows])
    file = f"{page.runs[0].described['dataset']}-confusion-{page.targets[target].name}"
    chart = charts.confusion_map(matrices, clips_of, labels, labels if columns == rows else [*labels, "(others)"], file)
    return chart, {"rows": [classes[index] for index in rows], "all": len(classes)}


def _short(names: list[str]) -> list[str]:
    """Shortened names, unless two would become equal."""
    short = [plots.shortened(name) for name in names]
    return short if len(set(short)) == len(short) else names


def _gains(page: PageRows) -> dict[str, Any]:
    """Gains by class for pairs of rows, keyed `BEFORE>AFTER` by number: [before, after, fixed, broken] per class, in
    the order of `classes`. The reverse of a pair is computed by the page."""
    ranked = sorted(range(len(page.rows)), key=lambda number: -page.summaries[number].score)[:MOST_ROWS]
    single, joint = words.best_single(page), words.best_fusion(page)
    names = [row.name for row in page.rows]
    chosen = sorted({*ranked, *(names.index(row.label) for row in (single, joint) if row is not None)})
    order = {(target.name, label): None for target in page.targets for label in target.classes}
    pairs, classes = {}, []
    for before, after in combinations(chosen, 2):
        table = class_gains(page.targets, page.rows[before].heads, page.rows[after].heads).classes
        table = table.set_index(["target", "class"])
        table = table.loc[[key for key in order if key in table.index]]
        pairs[f"{before}>{after}"] = table[["before", "after", "fixed", "broken"]].round(4).to_numpy().tolist()
        classes = table["clips"].reset_index().to_numpy().tolist()
    start = names.index(single.label) if single is not None else ranked[-1]
    end = names.index(joint.label) if joint is not None else next(number for number in ranked if number != start)
    return {"classes": classes, "pairs": pairs, "rows": chosen, "before": start, "after": end}
