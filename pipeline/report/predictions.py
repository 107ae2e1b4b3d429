"""Predictions of media files as lines of text, JSON, a table, and a picture of what is said over time."""

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
    """One line: the likeliest classes, and what one should know of the clip."""
    if clip.problem is not None:
        said = f"not predicted: {clip.problem}"
    else:
        by_target = []
        for target in targets:
            guesses = ", ".join(f"{name} {percent(value)} %" for name, value in clip.top(target, count))
            by_target.append(f"{target.name}: {guesses}" if len(targets) > 1 else guesses)
        said = "; ".join(by_target)
    notes = f" ({'; '.join(clip.notes)})" if clip.notes else ""
    return f"{clip.place}: {said}{notes}"


def print_summary(found: Prediction) -> str:
    """Who says it, and how long it took."""
    chosen = ""
    if found.validation_score is not None:
        measure = measure_words(found.targets.selection)
        chosen = (
            f", of {len(found.run.heads)} rows the best on validation ({percent(found.validation_score)} % {measure})"
        )
    seeds = "1 seed" if len(found.seeds) == 1 else f"{len(found.seeds)} seeds"
    told = sum(clip.problem is None for clip in found.clips)
    what, one = ("clips", "clip") if all(clip.start is None for clip in found.clips) else ("windows", "window")
    return (
        f"{found.run.folder}:{found.row}{chosen}, {seeds}; {told} of {len(found.clips)} {what} predicted, "
        f"{found.seconds_per_clip:.2f} s a {one}"
    )


def print_pictures(found: Prediction) -> list[str]:
    """A line for each picture of an explanation, and for each clip that has none though one was asked for."""
    return [
        str(clip.picture) if clip.picture is not None else f"{clip.place}: not explained: {clip.unexplained}"
        for clip in found.clips
        if clip.picture is not None or clip.unexplained is not None
    ]


def as_json(found: Prediction, count: int) -> str:
    """All that is known, with the `count` likeliest classes of each clip and target."""
    described = {
        "run": str(found.run.folder),
        "row": found.row,
        "seeds": found.seeds,
        "validation_score": found.validation_score,
        "seconds_per_clip": found.seconds_per_clip,
        "targets": [
            {"name": target.name, "classes": len(target.classes), "sigmoid": target.sigmoid} for target in found.targets
        ],
        "clips": [_described(clip, found.targets, count) for clip in found.clips],
    }
    return json.dumps(described, indent=2)


def as_frame(found: Prediction) -> pd.DataFrame:
    """A line a clip: `path`, `start`, `end` (s), for each target the likeliest class by its name and
    `<target>_probability`, then `<target>:<class>`, the probability of every class; `used`, `notes`, `problem`. What is
    not known is empty."""
    return pd.DataFrame([_line(clip, found.targets) for clip in found.clips])


def timeline(found: Prediction, count: int) -> Figure:
    """The probabilities of the classes with the highest peaks over the time of each file, a panel a file and target.
    A point stands in the middle of its window; where nothing could be said the line is interrupted."""
    by_path: dict[Path, list[ClipPrediction]] = {}
    for clip in found.clips:
        by_path.setdefault(clip.path, []).append(clip)
    panels = [(path, target) for path in by_path for target in found.targets]
    figure = Figure(figsize=(10, 2.6 * len(panels) + 0.4), layout="constrained")
    every_axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (path, target) in zip(every_axes, panels, strict=True):
        clips = [clip for clip in by_path[path] if clip.start is not None and clip.end is not None]
        middles = [(clip.start + clip.end) / 2 for clip in clips if clip.start is not None and clip.end is not None]
        nothing = np.full(len(target.classes), np.nan)
        values = np.array([clip.probabilities.get(target.name, nothing) for clip in clips]).reshape(len(clips), -1)
        peaks = np.nan_to_num(values).max(axis=0, initial=0)
        for each in np.argsort(-peaks, kind="stable")[:count] if peaks.any() else []:
            axes.plot(middles, 100 * values[:, each], marker=".", label=target.classes[each])
        axes.set(title=_title(path, target, found.targets), ylabel="probability (%)", ylim=(0, 102))
        axes.set_xlim(0, max((clip.end for clip in clips if clip.end is not None), default=1))
        axes.spines[["top", "right"]].set_visible(False)
        if peaks.any():
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    every_axes[-1].set_xlabel("seconds (middle of the window)")
    return figure


def _title(path: Path, target: LearnedTarget, targets: Targets) -> str:
    return f"{path.name}: {target.name}" if len(targets) > 1 else path.name


def _described(clip: ClipPrediction, targets: Targets, count: int) -> dict[str, Any]:
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


def _line(clip: ClipPrediction, targets: Targets) -> dict[str, Any]:
    line: dict[str, Any] = {"path": str(clip.path), "start": clip.start, "end": clip.end}
    for target in targets:
        name, value = next(iter(clip.top(target, 1)), (None, None))
        line |= {target.name: name, f"{target.name}_probability": value}
    for target in targets:
        values = clip.probabilities.get(target.name, [None] * len(target.classes))
        line |= {f"{target.name}:{name}": value for name, value in zip(target.classes, values, strict=True)}
    return line | {"used": "+".join(clip.used), "notes": "; ".join(clip.notes), "problem": clip.problem}
