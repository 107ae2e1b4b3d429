"""The page of one run, or of several side by side."""

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
from avfuse.pipeline.report.page.clips import Wanted
from avfuse.pipeline.report.page.colours import looks
from avfuse.pipeline.report.page.document import json_island, render
from avfuse.pipeline.report.page.rows import Shown
from avfuse.pipeline.report.page.tables import Cell, PageTable, cell
from avfuse.pipeline.report.results import cells, chance_words, class_words, headings, measure_words
from avfuse.stages.fuse.analysis.class_gains import gains
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.runs.run_folder import results_table
from avfuse.stages.fuse.runs.summary import chance

MOST_ROWS = 12
"""Gains of classes are told between so many rows; of more, between the best."""
_SHARE_OF_LINES = 0.6
"""Of the room that is left, lines of clips take no more."""


@dataclass(frozen=True)
class Written:
    """A page: its file, its size in bytes, how many of the test clips it lists, and of how many it has pictures and
    sound."""

    path: Path
    bytes: int
    clips: int
    listed: int
    with_media: int

    @property
    def words(self) -> str:
        shown = f"{self.with_media} of {self.clips} test clips with pictures and sound"
        left_out = f", {self.clips - self.listed} not listed" if self.listed < self.clips else ""
        return f"{self.path}: {self.bytes / 1e6:.1f} MB, {shown}{left_out}"


def write_page(shown: Shown, manifest: Manifest, cache: Path, target: Path, wanted: Wanted) -> Written:
    """Results, figures, a clip explorer, and where everything came from. cache: of the features that rows are explained
    by.

    The page holds as many clips as fit `wanted.bytes`; nothing else is left out for its size.
    """
    context, islands = _context(shown, wanted), _islands(shown)
    lines = clips.listed(shown)
    room = wanted.bytes - len(_rendered(context, islands, shown, [], {}, cut=True).encode())
    fitting = clips.fitting(lines, int(_SHARE_OF_LINES * room))
    room -= len(json_island(fitting))
    ids, media, cut = {line["id"] for line in fitting}, {}, False
    for clip_id, found in clips.with_media(shown, manifest, cache, wanted):
        room -= len(json_island({clip_id: found}))
        if cut := room < 0:
            break
        if clip_id in ids:
            media[clip_id] = found
    html = _rendered(context, islands, shown, fitting, media, cut)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")
    return Written(target, len(html.encode()), len(lines), len(fitting), len(media))


def _rendered(
    context: Mapping[str, Any],
    islands: Mapping[str, Any],
    shown: Shown,
    lines: Sequence[Mapping[str, Any]],
    media: Mapping[str, Any],
    cut: bool,
) -> str:
    """cut: whether clips are left out because the page would become too large."""
    counts = {"listed": len(lines), "clips": len(shown.first.clip_ids), "with_media": len(media), "cut": cut}
    explorer = {"clips": lines, "media": media}
    return render("run.html.j2", {**context, "counts": counts}, {**islands, "explorer": explorer})


def _context(shown: Shown, wanted: Wanted) -> dict[str, Any]:
    first, name = shown.runs[0].described, shown.runs[0].described["dataset"]
    several = len(shown.runs) > 1
    row_looks = looks([row.name for row in shown.rows])
    return {
        "title": f"{name}: {', '.join(str(run.folder.name) for run in shown.runs)}",
        "heading": name,
        "kind": "Runs compared" if several else f"Run {shown.runs[0].folder.name}",
        "clips": first["clips"],
        "classes": class_words(shown.targets),
        "chance": chance_words(shown.merged),
        "created": [run.described["created"] for run in shown.runs],
        "untrained": shown.untrained,
        "shuffled": shown.shuffled,
        "summary": words.summary(shown),
        "results": results(shown, row_looks),
        "notes": words.table_notes(shown),
        "summaries": {row.name: get_head(row.heads[0].head).summary for row in shown.rows},
        "looks": row_looks,
        "measure": measure_words(shown.targets.measure),
        "targets": shown.targets.each,
        "all_shown": plots.ALL_SHOWN,
        "most_errors": plots.MOST_ERRORS,
        "has_curves": bool(_curves(shown)),
        "has_gains": len(shown.rows) > 1,
        "capped_gains": MOST_ROWS if len(shown.rows) > MOST_ROWS else 0,
        "wanted": wanted,
        "features": provenance.feature_table(
            (spec for run in shown.runs for specs in run.described["features"].values() for spec in specs),
            f"{name}-features",
        ),
        "settings": provenance.settings_table(
            [(row.name, row.heads[0].described["recipe"], row.heads[0].described["options"]) for row in shown.rows],
            f"{name}-settings",
        ),
        "run_facts": [(str(run.folder), provenance.run_facts(run)) for run in shown.runs],
        "excluded": {clip: why for run in shown.runs for clip, why in run.described["clips"]["excluded"].items()},
        "seeds_csv": "\n".join(results_table(run).round(4).to_csv(index=False) for run in shown.runs),
    }


def results(shown: Shown, row_looks: Mapping[str, Any]) -> PageTable:
    """The results of all rows."""
    names = headings(shown.targets)
    rows = [[Cell(summary.label), *map(cell, cells(shown.targets, summary)[1:])] for summary in shown.summaries]
    meanings = {name: words.MEANINGS.get(name, f"{name}: share of test clips.") for name in names}
    file = f"{shown.runs[0].described['dataset']}-results"
    colours = {name: look.colour for name, look in row_looks.items()}
    return PageTable("results", "Scores on the test clips", names, rows, file, meanings, colours=colours)


def _curves(shown: Shown) -> dict[str, Any]:
    return {row.name: [one.curve for one in row.heads] for row in shown.rows if len(row.heads[0].curve) > 1}


def _islands(shown: Shown) -> dict[str, Any]:
    row_looks = looks([row.name for row in shown.rows])
    targets, name = shown.targets, shown.runs[0].described["dataset"]
    bars = charts.score_bars(
        [charts.Bar(row.label, row.score, row.low, row.high) for row in shown.summaries],
        row_looks,
        measure_words(targets.measure),
        chance(shown.merged),
        f"{name}-scores",
    )
    figures = {"scores": bars.described()}
    curves = charts.learning_curves(_curves(shown), row_looks, measure_words(targets.selection))
    figures |= {f"curves-{kind}": chart.described() for kind, chart in curves.items()}
    confusions = [_confusion(shown, number) for number in range(len(targets))]
    figures |= {f"confusion-{number}": chart.described() for number, (chart, _) in enumerate(confusions)}
    if len(shown.rows) > 1:
        figures["gains"] = charts.gains_bars(f"{name}-gains").described()
    return {
        "page": {
            "rows": [
                {"name": row.name, "colour": row_looks[row.name].colour, "seeds": len(row.heads)} for row in shown.rows
            ],
            "targets": [
                {"name": each.name, "classes": list(each.classes), "several": each.several} for each in targets
            ],
            "confusions": [axes for _, axes in confusions],
            "gains": _gains(shown) if len(shown.rows) > 1 else None,
        },
        "figures": figures,
    }


def _confusion(shown: Shown, target: int) -> tuple[charts.Chart, dict[str, Any]]:
    """The figure, and which classes it shows."""
    merged, names = shown.merged, [row.name for row in shown.rows]
    truth = shown.first.truth[target]
    classes = list(shown.targets.each[target].classes)
    counts = truth.sum(axis=0) if truth.ndim == 2 else np.bincount(truth, minlength=len(classes))
    matrices = {name: plots.mean_confusion(merged, name, target) for name in names}
    rows = columns = list(range(len(classes)))
    if len(classes) > plots.ALL_SHOWN:
        rows = plots.most_errors(list(matrices.values()), truth)
        matrices = {name: plots.part_of(matrix, rows) for name, matrix in matrices.items()}
        columns = [*rows, -1]
    clips_of = {name: matrix * counts[rows][:, None] for name, matrix in matrices.items()}
    labels = _short([classes[each] for each in rows])
    file = f"{shown.runs[0].described['dataset']}-confusion-{shown.targets.each[target].name}"
    chart = charts.confusion_map(matrices, clips_of, labels, labels if columns == rows else [*labels, "(others)"], file)
    return chart, {"rows": [classes[each] for each in rows], "all": len(classes)}


def _short(names: list[str]) -> list[str]:
    """Shortened, unless two would then be the same."""
    short = [plots.shortened(name) for name in names]
    return short if len(set(short)) == len(short) else names


def _gains(shown: Shown) -> dict[str, Any]:
    """Of each pair of rows, the classes of all targets: [before, after, fixed, broken] each, in the order of `classes`.
    Rows are named by their numbers; the reverse of a pair is not there."""
    ranked = sorted(range(len(shown.rows)), key=lambda number: -shown.summaries[number].score)[:MOST_ROWS]
    single, joint = words.best_single(shown), words.best_fusion(shown)
    names = [row.name for row in shown.rows]
    chosen = sorted({*ranked, *(names.index(row.label) for row in (single, joint) if row is not None)})
    order = {(each.name, one): None for each in shown.targets for one in each.classes}
    pairs, classes = {}, []
    for before, after in combinations(chosen, 2):
        found = gains(shown.targets, shown.rows[before].heads, shown.rows[after].heads).classes
        table = found.set_index(["target", "class"])
        table = table.loc[[each for each in order if each in table.index]]
        pairs[f"{before}>{after}"] = table[["before", "after", "fixed", "broken"]].round(4).to_numpy().tolist()
        classes = table["clips"].reset_index().to_numpy().tolist()
    start = names.index(single.label) if single is not None else ranked[-1]
    end = names.index(joint.label) if joint is not None else next(each for each in ranked if each != start)
    return {"classes": classes, "pairs": pairs, "rows": chosen, "before": start, "after": end}
