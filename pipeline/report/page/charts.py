"""Plotly figures of the page. Colours that depend on the theme are set by page.js."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from avfuse.pipeline.report.page.colours import RowStyle

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_LOSSES = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]
"""Ticks of a logarithmic axis."""


@dataclass(frozen=True)
class Chart:
    """A figure and the table of its numbers."""

    title: str  # name of the saved file
    words: str  # description for screen readers
    figure: go.Figure
    headings: Sequence[str]  # of the table
    numbers: Sequence[Sequence[str | float | None]]
    height: int  # pixels

    def described(self) -> dict[str, Any]:
        """The figure as JSON values, without what depends on the theme."""
        content = json.loads(self.figure.to_json())
        return {
            "title": self.title,
            "data": content["data"],
            "layout": {name: value for name, value in content["layout"].items() if name != "template"},
            "headings": list(self.headings),
            "numbers": [list(row) for row in self.numbers],
            "height": self.height,
        }


@dataclass(frozen=True)
class ScoreBar:
    """A score with its 95 % interval, as shares of 1."""

    name: str
    score: float
    low: float
    high: float


def score_bars(
    bars: Sequence[ScoreBar], styles: Mapping[str, RowStyle], measure: str, chance: float, title: str
) -> Chart:
    """One bar per row with its 95 % interval; a dotted line at chance. measure: name of the score."""
    height = 34 * len(bars) + 96
    values = [100 * bar.score for bar in bars]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=[plain(bar.name) for bar in bars],
            orientation="h",
            width=0.62,
            marker={
                "color": [styles[bar.name].colour for bar in bars],
                "pattern": {
                    "shape": [styles[bar.name].pattern for bar in bars],
                    "fillmode": "overlay",
                    "fgopacity": 0.6,
                },
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * max(bar.high - bar.score, 0) for bar in bars],
                "arrayminus": [100 * max(bar.score - bar.low, 0) for bar in bars],
                "thickness": 1.5,
                "width": 5,
            },
            customdata=[[100 * bar.low, 100 * bar.high] for bar in bars],
            hovertemplate="%{y}: %{x:.1f} %<br>95 % interval %{customdata[0]:.1f} – %{customdata[1]:.1f}"
            "<extra></extra>",
        )
    )
    _lay_out(figure, height)
    figure.update_layout(bargap=0.3, showlegend=False)
    figure.update_xaxes(title_text=f"test {measure} (%)", range=[0, 100], ticksuffix="")
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, ticks="")
    figure.add_vline(x=100 * chance, line={"dash": "dot", "width": 1.5, "color": "#888"})
    figure.add_annotation(
        x=100 * chance, y=1, yref="paper", yanchor="bottom", text="chance", showarrow=False, font={"size": 12}
    )
    words = (
        f"Bars: test {measure} of {len(bars)} rows with 95 % intervals; chance is {100 * chance:.1f} %. "
        "The numbers are in a table below the figure."
    )
    numbers: list[list[str | float | None]] = [
        [bar.name, *(f"{100 * value:.1f}" for value in (bar.score, bar.low, bar.high))] for bar in bars
    ]
    return Chart(title, words, figure, ["row", f"{measure} %", "interval from", "to"], numbers, height)


def learning_curves(
    curves: Mapping[str, Sequence[pd.DataFrame]], styles: Mapping[str, RowStyle], score: str
) -> dict[str, Chart]:
    """`score` and `loss` per epoch: a line is the mean over seeds that still train, its band spans the seeds. Rows
    without epochs have none. curves: one frame per seed of each row, as in `curve.csv`."""
    trained = {name: seeds for name, seeds in curves.items() if all(len(curve) > 1 for curve in seeds)}
    if not trained:
        return {}
    kinds = {
        "score": [("validation", "validation_score", 100.0)],
        "loss": [("validation", "validation_loss", 1.0), ("train", "train_loss", 1.0)],
    }
    labels = {"score": f"validation {score} (%)", "loss": "cross-entropy (nats)"}
    longest = max(len(curve) for seeds in trained.values() for curve in seeds)
    charts = {}
    for kind, columns in kinds.items():
        figure = go.Figure()
        numbers: list[list[str | float | None]] = []
        for name, seeds in trained.items():
            for part, column, scale in columns:
                table = _over_seeds(seeds, column, scale)
                for trace in _lines(name, part, table, styles[name], band=len(seeds) > 1):
                    figure.add_trace(trace)
                numbers += [
                    [name, part, int(epoch), f"{mean:.4g}", f"{low:.4g}", f"{high:.4g}"]
                    for epoch, mean, low, high in table.itertuples()
                ]
        _lay_out(figure, 380)
        figure.update_layout(showlegend=False, hovermode="closest")
        figure.update_xaxes(title_text="epoch", rangemode="tozero", dtick=max(1, math.ceil(longest / 8)))
        figure.update_yaxes(title_text=labels[kind], automargin=True, type="log" if kind == "loss" else "linear")
        if kind == "loss":
            figure.update_yaxes(tickvals=_LOSSES, ticktext=[f"{loss:g}" for loss in _LOSSES])
        words = f"Lines: {labels[kind]} by epoch, the mean over seeds, for {', '.join(trained)}."
        charts[kind] = Chart(
            f"learning-curves-{kind}", words, figure, ["row", "clips", "epoch", "mean", "lowest seed", "highest seed"],
            numbers, 380,
        )  # fmt: skip
    return charts


def _over_seeds(seeds: Sequence[pd.DataFrame], column: str, scale: float) -> pd.DataFrame:
    """Mean, lowest and highest seed by epoch, as long as all seeds train."""
    shared = min(len(curve) for curve in seeds)
    values = scale * np.stack([curve[column].to_numpy()[:shared] for curve in seeds])
    return pd.DataFrame(
        {"mean": values.mean(axis=0), "low": values.min(axis=0), "high": values.max(axis=0)},
        index=seeds[0]["epoch"].to_numpy()[:shared],
    )


def _lines(name: str, part: str, table: pd.DataFrame, style: RowStyle, band: bool) -> list[go.Scatter]:
    """Traces of a row; `meta` names the row and the part of the clips for the page's switches."""
    epochs = table.index.tolist()
    meta = {"row": name, "part": part}
    train = part == "train"
    dash = "dot" if train else style.dash
    traces = []
    if band:
        red, green, blue = (int(style.colour[start : start + 2], 16) for start in (1, 3, 5))
        traces.append(
            go.Scatter(
                x=[*epochs, *reversed(epochs)],
                y=_rounded([*table["high"], *reversed(table["low"].tolist())]),
                fill="toself",
                fillcolor=f"rgba({red},{green},{blue},{0.08 if train else 0.16})",
                line={"width": 0},
                hoverinfo="skip",
                meta=meta,
                mode="lines",
            )
        )
    traces.append(
        go.Scatter(
            x=epochs,
            y=_rounded(table["mean"]),
            mode="lines",
            line={"color": style.colour, "width": 1.4 if train else 2.2, "dash": dash},
            meta=meta,
            hovertemplate=f"{plain(name)}, {part}<br>epoch %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    )
    return traces


def plain(text: str) -> str:
    """A name escaped for plotly, which reads markup in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def confusion_map(
    matrices: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> Chart:
    """One heat map per row, of which the page shows one. matrices: shares of the true class; counts: clips, means over
    seeds."""
    side = max(420, 17 * len(rows) + 150)
    figure = go.Figure()
    for number, (name, matrix) in enumerate(matrices.items()):
        figure.add_trace(
            go.Heatmap(
                z=np.round(100 * matrix, 1).tolist(),
                x=list(map(plain, columns)),
                y=list(map(plain, rows)),
                customdata=np.round(counts[name], 2).tolist(),
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
                visible=number == 0,
                meta={"row": name},
                hovertemplate="true: %{y}<br>predicted: %{x}<br>%{customdata} clips, %{z} %"
                f"<extra>{plain(name)}</extra>",
            )
        )
    _lay_out(figure, side)
    figure.update_layout(
        coloraxis={"cmin": 0, "cmax": 100, "colorbar": {"title": {"text": "% of true"}, "thickness": 12, "len": 0.8}}
    )
    figure.update_xaxes(
        title={"text": "predicted", "standoff": 12},
        tickangle=-60,
        automargin=True,
        showgrid=False,
        dtick=1,
        type="category",
    )
    figure.update_yaxes(
        title={"text": "true class", "standoff": 12},
        autorange="reversed",
        automargin=True,
        showgrid=False,
        dtick=1,
        type="category",
    )
    figure.update_layout(font={"size": 11})
    words = f"Heat map: share of each of {len(rows)} true classes that is predicted as each class, for a chosen row."
    return Chart(title, words, figure, [], [], side)


def gains_bars(title: str) -> Chart:
    """An empty figure, which the page's script fills with the classes of two rows."""
    figure = go.Figure()
    _lay_out(figure, 400)
    figure.update_layout(showlegend=False, bargap=0.25)
    figure.update_xaxes(title_text="difference in accuracy (percentage points)", zeroline=True, automargin=True)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, type="category", dtick=1)
    return Chart(title, "Bars: gain or loss in accuracy of each class, between two chosen rows.", figure, [], [], 400)


def _lay_out(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 16, "t": 24, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 13},
        dragmode=False,
    )
    figure.update_xaxes(automargin=True)
