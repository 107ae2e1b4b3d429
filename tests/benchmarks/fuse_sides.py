"""The two sides of `make bench-fuse`: avfuse's trainers, and plain loops in a process of their own."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from statistics import fmean, median
from typing import Any

import torch
import torch.nn.functional as F
from fuse_data import first
from fuse_settings import CLASSES, CLIPS, EPOCHS, KEPT, LOSS_TOLERANCE, STEPS, TABLE_EPOCHS, THREADS, say
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.vectorized import train_epochs


@dataclass(frozen=True)
class Kind:
    """A head, what is chosen of it, and how it is trained."""

    head: str
    batch: int
    video: str | None = None
    lr: float = 1e-4
    precision: str = "float32"

    @property
    def recipe(self) -> Recipe:
        chosen = {"lr": self.lr, "batch_size": self.batch, "epochs": TABLE_EPOCHS, "precision": self.precision}
        return Recipe.model_validate({**chosen, "weight_decay": 0})

    @property
    def options(self) -> Settings:
        return get_head(self.head).Options(**({} if self.video is None else {"video": self.video}))

    def measured(self, every: Sequence[FusionData]) -> list[FusionData]:
        """With as many training clips as make STEPS batches."""
        return first(every, min(CLIPS, STEPS * self.batch))

    def inputs(self, data: FusionData) -> HeadInputs:
        """Of all clips as avfuse has them, standardised by the training clips."""
        return HeadInputs.of(self.head, data, data.train, self.options, self.recipe)

    def plain_inputs(self, data: FusionData) -> Tensor:
        """The same as anybody would write it: (n, width)."""
        parts = []
        for name in get_head(self.head).used_modalities(self.options):
            modality = data.modalities[name]
            assert isinstance(modality, Modality)
            deviation, mean = torch.std_mean(modality.tokens[: len(data.train)], dim=0)
            standardised = (modality.tokens - mean) / deviation
            parts.append(standardised.mean(dim=1) if self.video == "mean" else standardised.flatten(1))
        return torch.cat(parts, dim=1)

    def check_inputs(self, every: Sequence[FusionData]) -> None:
        for data in every:
            prepared = self.inputs(data).evaluation_batch(data.train).prepared
            ours = torch.cat(list(prepared.values()), dim=1)
            torch.testing.assert_close(ours, self.plain_inputs(data), rtol=1e-3, atol=1e-4)

    def trainers(self, every: Sequence[FusionData], seeds: int) -> list[HeadTrainer]:
        """avfuse's heads: every seed on every data set."""
        prepared = [(data, self.inputs(data)) for data in every]
        return [
            HeadTrainer(inputs, data.truth, self.recipe, seed) for data, inputs in prepared for seed in range(seeds)
        ]

    def plain_loops(self, every: Sequence[FusionData], seeds: int) -> "list[PlainLoop]":
        prepared = [(len(data.train), self.plain_inputs(data), data.truth[0]) for data in every]
        return [
            PlainLoop(inputs[:clips], labels[:clips], self, seed)
            for clips, inputs, labels in prepared
            for seed in range(seeds)
        ]


class PlainLoop:
    """One net, as torch's tutorials train it."""

    def __init__(self, inputs: Tensor, labels: Tensor, kind: Kind, seed: int) -> None:
        torch.manual_seed(seed)
        self.device = inputs.device
        self.net = plain_net(inputs.shape[1], hidden_sizes(kind), kind.options.model_dump()["dropout"]).to(self.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=kind.lr)
        self.batches = DataLoader(TensorDataset(inputs, labels), batch_size=kind.batch, shuffle=True)

    def epoch(self) -> float:
        """Returns its mean loss."""
        self.net.train()
        total, clips = torch.zeros((), device=self.device), 0
        for inputs, labels in self.batches:
            self.optimiser.zero_grad()
            loss = F.cross_entropy(self.net(inputs), labels)
            loss.backward()
            self.optimiser.step()
            total += loss.detach() * len(labels)
            clips += len(labels)
        return total.item() / clips


def plain_net(inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), nn.ReLU(), nn.Dropout(dropout)]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))


def hidden_sizes(kind: Kind) -> list[int]:
    return [int(size) for size in kind.options.model_dump()["hidden"].split("x")]


Work = Callable[[], list[float]]


class OtherProcess:
    """Where the other side works, one thing at a time."""

    def __init__(self) -> None:
        self._process: multiprocessing.context.SpawnProcess | None = None

    def prepare(self, make: Callable[..., Work], *arguments: Any) -> None:
        """make: a function of this module, called over there with arguments, gives what `work` is to do."""
        if self._process is None:
            self._start()
        self._ask(partial(make, *arguments))

    def work(self) -> list[float]:
        losses: list[float] = self._ask(None)
        return losses

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        if KEPT:
            os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # so that an end over there is noticed here

    def _ask(self, what: object) -> Any:
        self._ours.send(what)
        answer = self._ours.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(questions: Connection) -> None:
    """Make what is to be done, or do it."""
    torch.set_num_threads(THREADS)
    work: Work = list
    with threadpool_limits(THREADS):
        while True:
            make = questions.recv()
            try:
                if make is None:
                    questions.send(work())
                else:
                    work = list  # lets the last one's memory go
                    work = make()
                    questions.send(None)
            except Exception as error:  # noqa: BLE001  (whatever it is, the benchmark ends with it)
                questions.send(error)


@dataclass
class Side:
    """One way of training some nets further: called, it does so for EPOCHS, and notes mean loss and time of each."""

    name: str
    epoch: Callable[[], Iterable[float]]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        for _ in range(EPOCHS):
            start = time.perf_counter()
            self.losses.append(fmean(self.epoch()))
            self.seconds.append(time.perf_counter() - start)

    def __str__(self) -> str:
        return (
            f"{self.name}: {median(self.seconds):.2f} s an epoch, loss {self.losses[0]:.3f} in the first of "
            f"{len(self.losses)}, {self.losses[-1]:.3f} in the last"
        )


def train_heads(trainers: Sequence[HeadTrainer]) -> list[float]:
    return [loss.total for loss in train_epochs(trainers)]


def train_plain(loops: Sequence[PlainLoop]) -> list[float]:
    return [loop.epoch() for loop in loops]


def check_losses(ours: Side, theirs: Side, *, same: bool = True) -> None:
    """Raises RuntimeError where one side did not learn, or not as the other did."""
    for side in (ours, theirs):
        say(str(side))
        if not side.losses[-1] < side.losses[0]:
            raise RuntimeError(f"{side.name} does not learn: its loss went from {side.losses[0]} to {side.losses[-1]}")
    ratio = fmean(ours.losses) / fmean(theirs.losses)
    if same and abs(ratio - 1) > LOSS_TOLERANCE:
        raise RuntimeError(f"{ours.name} does not learn as {theirs.name} does: {ratio:.2f} times its mean loss")
