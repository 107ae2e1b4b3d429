"""Stages one and two while other processes hold the cores: a loop for each core that does nothing but compute.

For `lite` extraction (frames, six audio images and the filter bank of CLIPS clips, decoded and committed), and for an
epoch of the `bottleneck` head on as many clips as the demo data set has for training:

* {extract,fuse}_slowdown_in_company: the time in company over that on a machine left alone. 2 is a fair share of it.
* {extract,fuse}_slowdown_in_company_before: the same where threads that wait spin as OpenMP has them do by default.
* {extract,fuse}_quiet_speed_over_before: what is lost on a machine left alone where waiting threads sleep (1: nothing).
* extract_speed_of_half_the_workers, ..._in_company: with half as many decode workers as cores, over as many.

How threads wait is settled as a process loads PyTorch, so there is a process for either way, and one works at a time.
Environment: ONLY (of extract,fuse,workers), CLIPS, PAIRS, SECONDS; BEFORE_PAIRS of what takes long.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import bench_extract
import numpy as np
import torch  # before avfuse, which would set how threads wait
from bench_media import render_clip
from pairs import MIN_PAIRS, MIN_SECONDS, Figure, compare, write

from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.vectorized import train_epochs
from avfuse.threads import SLEEPING, available_cores


def setting(name: str, default: object) -> str:
    return os.environ.get(name) or str(default)


ONLY = setting("ONLY", "extract,fuse,workers").split(",")
CLIPS = int(setting("CLIPS", 8))
PAIRS, SECONDS = int(setting("PAIRS", MIN_PAIRS)), float(setting("SECONDS", MIN_SECONDS))
BEFORE_PAIRS = int(setting("BEFORE_PAIRS", 3))
TRAIN_CLIPS, CLASSES, DIM = 214, 12, 1280
TOKENS = {"video": 25, "audio": 6}

BUSY_LOOP = """
import os, select
while os.read(0, 1):
    while not select.select([0], [], [], 0)[0]:
        sum(range(10_000))
    os.read(0, 1)
"""
"""A byte begins it and a byte halts it; the end of the input, which is there too when the benchmark dies, ends it."""


def main() -> None:
    write("company", with_quartiles(figures()))


def with_quartiles(figures: Iterator[Figure]) -> Iterator[Figure]:
    for figure in figures:
        yield figure
        print(f"# {figure.low:.3f} to {figure.high:.3f} between quartiles, n = {figure.n}", flush=True)


def figures() -> Iterator[Figure]:
    timed = partial(compare, min_pairs=PAIRS, min_seconds=SECONDS)
    with Company(available_cores()) as company, Process(SLEEPING) as now, Process({}) as before:
        for kind in [each for each in ONLY if each != "workers"]:
            name = f"{kind}_slowdown_in_company"
            yield timed(name, partial(company.during, now, kind), partial(now.work, kind))
            yield compare(
                f"{name}_before",
                partial(company.during, before, kind),
                partial(before.work, kind),
                min_pairs=BEFORE_PAIRS,
                min_seconds=0,
            )
            yield timed(
                f"{kind}_quiet_speed_over_before", partial(now.work, kind), partial(before.work, kind), speedup=True
            )
        if "workers" in ONLY:
            kinds, name = ("extract_half", "extract"), "extract_speed_of_half_the_workers"
            yield timed(name, *(partial(now.work, kind) for kind in kinds), speedup=True)
            yield timed(f"{name}_in_company", *(partial(company.during, now, kind) for kind in kinds), speedup=True)


class Company:
    """Busy loops, halted until they are wanted. Use as a context manager: it ends them."""

    def __init__(self, loops: int) -> None:
        command = [sys.executable, "-c", BUSY_LOOP]
        self._loops = [subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) for _ in range(loops)]

    def __enter__(self) -> "Company":
        return self

    def __exit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.kill()
            loop.wait()

    def during(self, process: "Process", kind: str) -> None:
        """Have a piece of work done while all loops run."""
        self._signal()
        try:
            process.work(kind)
        finally:
            self._signal()

    def _signal(self) -> None:
        for loop in self._loops:
            assert loop.stdin is not None
            loop.stdin.write(b"\n")


class Process:
    """Does pieces of work in a process of its own. Use as a context manager."""

    def __init__(self, waiting: dict[str, str]) -> None:
        """waiting: which of SLEEPING are set there."""
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        with environment(waiting):
            self._process = context.Process(target=serve, args=(theirs, waiting))
            self._process.start()
        theirs.close()  # so that an end over there is noticed here

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.join()

    def work(self, kind: str) -> None:
        self._ours.send(kind)
        answer = self._ours.recv()
        if isinstance(answer, Exception):
            raise answer


@contextmanager
def environment(waiting: dict[str, str]) -> Iterator[None]:
    """SLEEPING as the processes that are started meanwhile find it."""
    before = {name: os.environ.pop(name) for name in SLEEPING if name in os.environ}
    os.environ.update(waiting)
    try:
        yield
    finally:
        for name in waiting:
            del os.environ[name]
        os.environ.update(before)


def serve(questions: Connection, waiting: dict[str, str]) -> None:
    """Do what is asked for, until nobody is there to ask."""
    warnings.simplefilter("ignore", RuntimeWarning)  # says that threads spin, which is wanted here
    cores = available_cores()
    makers = {
        "extract": partial(extraction, cores),
        "extract_half": partial(extraction, max(1, cores // 2)),
        "fuse": training,
    }
    works: dict[str, Callable[[], None]] = {}
    with ExitStack() as stack, suppress(EOFError):
        while True:
            kind = questions.recv()
            try:
                if {name: os.environ[name] for name in SLEEPING if name in os.environ} != waiting:
                    raise RuntimeError(f"{[*SLEEPING]} are not {waiting}: something imports avfuse before torch")
                if kind not in works:
                    works[kind] = makers[kind](stack)
                works[kind]()
                questions.send(None)
            except Exception as error:  # noqa: BLE001  (whatever it is, the benchmark ends with it)
                questions.send(error)


def extraction(workers: int, stack: ExitStack) -> Callable[[], None]:
    """CLIPS clips, from files to a committed chunk."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    content = render_clip(folder / "clip.avi", "mpeg4")
    specs = resolve(["lite"], weights=bench_extract.WEIGHTS)
    return stack.enter_context(bench_extract.extraction(specs, content, CLIPS, folder / "cache", workers))


def training(stack: ExitStack) -> Callable[[], None]:
    """An epoch of one head."""
    head = get_head("bottleneck")
    data = made_up()
    fit = HeadTrainer(
        HeadInputs.of(head.name, data, data.train, head.Options(), head.recipe), data.truth, head.recipe, seed=0
    )

    def run() -> None:
        train_epochs([fit])

    return run


def made_up() -> FusionData:
    """The demo's training clips in number and shape: noise around a point for each class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(TRAIN_CLIPS) % CLASSES
    present = torch.ones(TRAIN_CLIPS, dtype=torch.bool)
    modalities = {}
    for name, tokens in TOKENS.items():
        points = torch.randn(CLASSES, 1, DIM, generator=generator)
        noise = torch.randn(TRAIN_CLIPS, tokens, DIM, generator=generator)
        modalities[name] = Modality(points[labels] + noise, present)
    names = [f"class {number}" for number in range(CLASSES)]
    splits, groups = np.full(TRAIN_CLIPS, "train"), np.arange(TRAIN_CLIPS) // 2
    return FusionData.from_arrays(modalities, labels.numpy(), names, splits, groups)


if __name__ == "__main__":
    main()
