"""Comparing two ways of doing the same work, fairly: in turns, in one process, by the ratio within each pair.

A machine that slows down or speeds up meanwhile does so to both halves of a pair, so the ratio stands where two
separate times would not. Loading models and making media happen before, in the caller.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from avfuse.features.atomic import atomic_write

MIN_PAIRS = 7
MIN_SECONDS = 20.0
OUTPUT = Path(os.environ.get("BENCH_OUTPUT") or Path(__file__).resolve().parents[2] / "build" / "bench")

Work = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Figure:
    """One measured number: the median of `n` observations and their quartiles `low` and `high`."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    n: int

    @property
    def line(self) -> str:
        return f"{self.name} {self.value:.3f} {self.unit}"


def compare(
    name: str,
    ours: Work,
    theirs: Work,
    *,
    speedup: bool = False,
    min_pairs: int = MIN_PAIRS,
    min_seconds: float = MIN_SECONDS,
    clock: Clock = time.perf_counter,
) -> Figure:
    """The median ratio of two times over pairs A B, B A, A B, ...

    Args:
        name: what the figure is called.
        ours, theirs: do equal work once, each time anew; each is called once unmeasured before the first pair.
        speedup: whether the ratio is theirs / ours (how many times faster ours is) instead of ours / theirs (how many
            times longer ours takes).
        min_pairs, min_seconds: measuring goes on until there are so many pairs and they took so long together.
        clock: seconds, from any origin.

    Raises:
        ValueError: no pair at all is asked for.
    """
    if min_pairs < 1:
        raise ValueError(f"min_pairs={min_pairs}: a median needs at least one pair")
    ours()
    theirs()
    ratios: list[float] = []
    measured_seconds = 0.0
    while len(ratios) < min_pairs or measured_seconds < min_seconds:
        # Who goes first finds colder caches and a different clock speed: each does so every other time.
        if len(ratios) % 2 == 0:
            our_seconds, their_seconds = _seconds(ours, clock), _seconds(theirs, clock)
        else:
            their_seconds, our_seconds = _seconds(theirs, clock), _seconds(ours, clock)
        measured_seconds += our_seconds + their_seconds
        ratios.append(their_seconds / our_seconds if speedup else our_seconds / their_seconds)
    return quartiles(name, ratios, "x")


def quartiles(name: str, values: Sequence[float], unit: str) -> Figure:
    """The median of some observations, and their quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Figure(name=name, value=median, unit=unit, low=low, high=high, n=len(values))


def write(bench_name: str, figures: Iterable[Figure], folder: Path = OUTPUT) -> Path:
    """Print each figure as it comes, `name value unit`, and write all there are by then to `folder`/`bench_name`.json:
    a benchmark that is stopped leaves what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{bench_name}.json"
    records: list[dict[str, object]] = []
    replace_json(path, records)
    for figure in figures:
        print(figure.line, flush=True)
        records.append(asdict(figure))
        replace_json(path, records)
    return path


def replace_json(path: Path, content: object) -> None:
    """The whole file at once: it holds what it held before, or this."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _seconds(work: Work, clock: Clock) -> float:
    start = clock()
    work()
    return clock() - start
