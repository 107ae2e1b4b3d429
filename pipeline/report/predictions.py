"""Predictions of media files as text, JSON, a table, or a plot over time."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avfuse.pipeline.prediction import ClipPrediction, Prediction
from avfuse.pipeline.report.results import measure_words
from avfuse.pipeline.report.text_tables import percent
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets

OutputFormat = Literal["text", "json", "csv", "png"]


def output_lines(prediction: Prediction, output_format: OutputFormat, top: int, output: Path | None) -> list[str]:
    """Lines to print: the predictions themselves, or, once they are written to the file `output`, the clips that could
    not be predicted and the file's path.

    Args:
        output_format: of the file; the terminal takes text or JSON.
        top: number of classes per clip and target in text, JSON and the picture.
    """
    lines = [print_clip(clip, prediction.targets, top) for clip in prediction.clips]
    if output is None:
        return [as_json(prediction, top)] if output_format == "json" else lines
    if output_format == "png":
        timeline(prediction, top).savefig(output, dpi=150)
    elif output_format == "csv":
        as_frame(prediction).to_csv(output, index=False)
    else:
        text = as_json(prediction, top) if output_format == "json" else "\n".join(lines)
        output.write_text(f"{text}\n", encoding="utf-8")
    unpredicted = [line for clip, line in zip(prediction.clips, lines, strict=True) if clip.problem is not None]
    return [*unpredicted, str(output)]


def print_clip(clip: ClipPrediction, targets: Targets, count: int) -> str:
    """One line: the `count` likeliest classes per target, and notes on the clip."""
    if clip.problem is not None:
        classes = f"not predicted: {clip.problem}"
    else:
        by_target = []
        for target in targets:
            guesses = ", ".join(f"{name} {percent(value)} %" for name, value in clip.top(target, count))
            by_target.append(f"{target.name}: {guesses}" if len(targets) > 1 else guesses)
        classes = "; ".join(by_target)
    notes = f" ({'; '.join(clip.notes)})" if clip.notes else ""
    return f"{clip.place}: {classes}{notes}"


def print_summary(prediction: Prediction) -> str:
    """The run, row and seeds that predicted, the number of clips, and the time per clip."""
    chosen = ""
    if prediction.validation_score is not None:
        measure = measure_words(prediction.targets.selection)
        score = f"{percent(prediction.validation_score)} % {measure}"
        chosen = f", of {len(prediction.run.heads)} rows the best on validation ({score})"
    seeds = "1 seed" if len(prediction.seeds) == 1 else f"{len(prediction.seeds)} seeds"
    count = sum(clip.problem is None for clip in prediction.clips)
    unit = "clip" if all(clip.start is None for clip in prediction.clips) else "window"
    return (
        f"{prediction.run.folder}:{prediction.row}{chosen}, {seeds}; "
        f"{count} of {len(prediction.clips)} {unit}s predicted, {prediction.seconds_per_clip:.2f} s per {unit}"
    )


def print_pictures(prediction: Prediction) -> list[str]:
    """A line for each explained clip with its picture, or with the reason why it has none."""
    return [
        str(clip.picture) if clip.picture is not None else f"{clip.place}: not explained: {clip.unexplained}"
        for clip in prediction.clips
        if clip.picture is not None or clip.unexplained is not None
    ]


def as_json(prediction: Prediction, count: int) -> str:
    """The whole prediction as JSON, with the `count` likeliest classes per clip and target."""
    content = {
        "run": str(prediction.run.folder),
        "row": prediction.row,
        "seeds": prediction.seeds,
        "validation_score": prediction.validation_score,
        "seconds_per_clip": prediction.seconds_per_clip,
        "targets": [
            {"name": target.name, "classes": len(target.classes), "sigmoid": target.sigmoid}
            for target in prediction.targets
        ],
        "clips": [_clip_json(clip, prediction.targets, count) for clip in prediction.clips],
    }
    return json.dumps(content, indent=2)


def as_frame(prediction: Prediction) -> pd.DataFrame:
    """One line per clip: `path`, `start`, `end` (seconds), per target `<target>`, its likeliest class, and
    `<target>_probability`, then `<target>:<class>`, the probability of every class; `used`, `notes`, `problem`. Unknown
    values are empty."""
    return pd.DataFrame([_table_row(clip, prediction.targets) for clip in prediction.clips])


def timeline(prediction: Prediction, count: int) -> Figure:
    """Probabilities over time of the `count` classes with the highest peaks, one panel per file and target. A point is
    in the middle of its window; a window that could not be predicted interrupts the line."""
    by_path: dict[Path, list[ClipPrediction]] = {}
    for clip in prediction.clips:
        by_path.setdefault(clip.path, []).append(clip)
    panels = [(path, target) for path in by_path for target in prediction.targets]
    figure = Figure(figsize=(10, 2.6 * len(panels) + 0.4), layout="constrained")
    panels_axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (path, target) in zip(panels_axes, panels, strict=True):
        clips = [clip for clip in by_path[path] if clip.start is not None and clip.end is not None]
        middles = [(clip.start + clip.end) / 2 for clip in clips if clip.start is not None and clip.end is not None]
        unknown = np.full(len(target.classes), np.nan)
        values = np.array([clip.probabilities.get(target.name, unknown) for clip in clips]).reshape(len(clips), -1)
        peaks = np.nan_to_num(values).max(axis=0, initial=0)
        for index in np.argsort(-peaks, kind="stable")[:count] if peaks.any() else []:
            axes.plot(middles, 100 * values[:, index], marker=".", label=target.classes[index])
        axes.set(title=_title(path, target, prediction.targets), ylabel="probability (%)", ylim=(0, 102))
        axes.set_xlim(0, max((clip.end for clip in clips if clip.end is not None), default=1))
        axes.spines[["top", "right"]].set_visible(False)
        if peaks.any():
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    panels_axes[-1].set_xlabel("seconds (middle of the window)")
    return figure


def _title(path: Path, target: LearnedTarget, targets: Targets) -> str:
    return f"{path.name}: {target.name}" if len(targets) > 1 else path.name


def _clip_json(clip: ClipPrediction, targets: Targets, count: int) -> dict[str, Any]:
    top = {
        target.name: [{"class": name, "probability": value} for name, value in clip.top(target, count)]
        for target in targets
    }
    return {
        "path": str(clip.path),
        "start": clip.start,
        "end": clip.end,
        "top": None if clip.problem is not None else top,
        "used": list(clip.used),
        "notes": list(clip.notes),
        "problem": clip.problem,
        "picture": None if clip.picture is None else str(clip.picture),
        "unexplained": clip.unexplained,
    }


def _table_row(clip: ClipPrediction, targets: Targets) -> dict[str, Any]:
    line: dict[str, Any] = {"path": str(clip.path), "start": clip.start, "end": clip.end}
    for target in targets:
        name, value = next(iter(clip.top(target, 1)), (None, None))
        line |= {target.name: name, f"{target.name}_probability": value}
    for target in targets:
        values = clip.probabilities.get(target.name, [None] * len(target.classes))
        line |= {f"{target.name}:{name}": value for name, value in zip(target.classes, values, strict=True)}
    return line | {"used": "+".join(clip.used), "notes": "; ".join(clip.notes), "problem": clip.problem}
