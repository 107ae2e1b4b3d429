"""Training fusion heads on cached features against the loop that torch's tutorials write, and against scikit-learn.

Features are made up, with classes in them, in the shapes of MAiVAR's on UCF101: 4,893 training and 1,944 test clips of
51 classes, TSN 25 x 1024, Inception-ResNet-v2 1536 for each of six audio images. On a CPU, N being the batch size:

* fuse_speedup_flatten_batchN: one fusion head, all frames and one image side by side (27,136 - 512 - 256 - 51).
* fuse_speedup_mean_batchN: 5 seeds x 6 audio images, the mean frame and one image (2,560 - 512 - 256 - 51), given to
  `train_epochs` at once, against 30 nets one after the other.
* fuse_mean_together_over_alone_batchN: the same 30 heads side by side against one after the other, both avfuse's; how
  many times faster side by side is.
* fuse_speedup_over_sklearn_mean_batchN: 6 of these heads, one an image, against 6 of scikit-learn's MLPClassifier.
* token_step_time_over_in_memory: a bottleneck head over 393 and 1,214 tokens from shards on disk, against from memory.

The plain loop is nn.Linear, nn.ReLU, nn.Dropout, a TensorDataset of standardised and concatenated inputs on the device,
DataLoader(shuffle=True) without workers, cross-entropy, torch.optim.Adam as it comes; its loss is summed up without
waiting for the device. Both sides have the same inputs (which is checked), batches, epochs, learning rate and threads,
and nothing is validated. Inputs are prepared before the clock runs: fuse_preparation_time_over_plain_flatten compares
that by itself. At small batches an epoch has fewer clips, so that it is STEPS batches. Heads go on learning from pair
to pair, and a figure counts only where the losses of both sides fell and are on average within a quarter of each other
(scikit-learn's, which has no dropout, need only have fallen).

The other side has a process of its own, which waits while avfuse trains: how a process treats freed memory decides much
of the time here, and what avfuse asks for its own must not help the other. KEPT=1 lets the other side's process keep
large buffers as well (glibc's MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_), and adds _kept to figures' names.

With a GPU, MAiVAR's Table II as a whole: 30 audio heads, 30 flatten fusion heads and 5 video heads, 100 epochs and a
test: gpu_table2_seconds, gpu_table2_speedup over the plain loop, one net after the other, and gpu_share_of_TYPE_rate,
the arithmetic of all training steps over the time that it would take at the rate of one large product.

Environment: ONLY (of flatten,mean,sklearn,tokens,gpu), CLIPS, STEPS and EPOCHS of a measurement, BATCHES (16,128),
PAIRS, SECONDS, THREADS, KEPT, TOKEN_CLIPS, SEEDS, FRAMES; DEVICE, TABLE_EPOCHS, PRECISION (auto, float32 or bfloat16:
avfuse's on the GPU), FULL=1 to train the plain loop's whole table instead of three epochs of one net of each kind.
"""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pairs import MIN_PAIRS, MIN_SECONDS, Figure, compare, write
from product_rates import product_rates
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from avfuse.features.backbones import WeightsChoice
from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.feature_names import resolve
from avfuse.features.malloc import keep_large_buffers
from avfuse.manifests import Manifest, Target
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.modality import Modality
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.training import head_trainer as fitting
from avfuse.stages.fuse.training import vectorized
from avfuse.stages.fuse.training.head_trainer import HeadTrainer, predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.vectorized import train_epochs


def setting(name: str, default: object) -> str:
    return os.environ.get(name) or str(default)


ONLY = setting("ONLY", "flatten,mean,sklearn,tokens,gpu").split(",")
CLIPS = int(setting("CLIPS", 4893))
TEST_CLIPS = math.ceil(CLIPS * 1944 / 4893)
STEPS, EPOCHS = int(setting("STEPS", 16)), int(setting("EPOCHS", 1))
BATCHES = [int(size) for size in setting("BATCHES", "16,128").split(",")]
PAIRS, SECONDS = int(setting("PAIRS", MIN_PAIRS)), float(setting("SECONDS", MIN_SECONDS))
THREADS = int(setting("THREADS", 2))
KEPT = setting("KEPT", 0) != "0"
DEVICE = setting("DEVICE", "cuda" if torch.cuda.is_available() else "none")
TABLE_EPOCHS, PLAIN_EPOCHS, FULL = int(setting("TABLE_EPOCHS", 100)), 3, setting("FULL", 0) != "0"
PRECISION = setting("PRECISION", "auto")

CLASSES, FRAMES, FRAME_DIM, IMAGES, IMAGE_DIM = 51, int(setting("FRAMES", 25)), 1024, 6, 1536
SEEDS = int(setting("SEEDS", 5))
LOSS_TOLERANCE = 0.25
TOKENS = {"video": "timesformer:clip:tokens7x7", "audio": "ast:fbank:tokens"}
TOKEN_CLIPS, TOKEN_CLASSES, TOKEN_BATCH, CLIPS_PER_SHARD = int(setting("TOKEN_CLIPS", 40)), 4, 16, 16
CPU = torch.device("cpu")

timed = partial(compare, min_pairs=PAIRS, min_seconds=SECONDS)


def main() -> None:
    torch.set_num_threads(THREADS)
    keep_large_buffers()  # as training does
    with threadpool_limits(THREADS), tempfile.TemporaryDirectory() as folder:
        write("fuse", with_range(figures(Path(folder))))


def figures(folder: Path) -> Iterator[Figure]:
    yield from cpu_figures()
    made_up.cache_clear()
    if "tokens" in ONLY:
        manifest = save_tokens(folder)
        inputs = {name: [feature] for name, feature in TOKENS.items()}
        yield token_figure(*(load_data(manifest, folder, inputs, memory_bytes=limit) for limit in (None, 0)))
    if "gpu" in ONLY and DEVICE != "none":
        yield from table_figures(torch.device(DEVICE))


def cpu_figures() -> Iterator[Figure]:
    other = OtherProcess()
    if "flatten" in ONLY:
        yield preparation_figure(other)
    for batch in BATCHES:
        if "flatten" in ONLY:
            yield flatten_figure(batch, other)
        if "mean" in ONLY:
            yield mean_figure(batch, other)
            yield together_figure(batch)
        if "sklearn" in ONLY:
            yield sklearn_figure(batch, other)
    other.end()


def with_range(every: Iterable[Figure]) -> Iterator[Figure]:
    for figure in every:
        yield figure
        say(f"{figure.low:.3f} to {figure.high:.3f} between quartiles, n = {figure.n}")


def say(text: str) -> None:
    print(f"# {text}", flush=True)


# ---- Features ----


@cache
def made_up(device: torch.device = CPU) -> list[FusionData]:
    """A data set for each audio image over the same frames; training clips come first, and none is for validation. What
    tells classes apart is small beside what differs from clip to clip."""
    generator = torch.Generator().manual_seed(0)
    count = CLIPS + TEST_CLIPS
    labels = torch.randint(CLASSES, (count,), generator=generator)
    video, audio = (
        scattered(labels, length, dim, generator).to(device)
        for length, dim in ((FRAMES, FRAME_DIM), (IMAGES, IMAGE_DIM))
    )
    all_have = torch.ones(count, dtype=torch.bool, device=device)
    frames = Modality(video, all_have)
    return [with_image(frames, Modality(image[:, None], all_have), labels.to(device)) for image in audio.unbind(1)]


def scattered(labels: Tensor, length: int, dim: int, generator: torch.Generator) -> Tensor:
    """Tokens (n, length, dim): a point per class, one per clip, and noise."""
    tokens = torch.randn(len(labels), length, dim, generator=generator)
    tokens += torch.randn(len(labels), 1, dim, generator=generator)
    tokens += 0.3 * torch.randn(CLASSES, 1, dim, generator=generator)[labels]
    return tokens


def with_image(video: Modality, audio: Modality, labels: Tensor) -> FusionData:
    names, count = [f"class {number}" for number in range(CLASSES)], len(labels)
    splits = np.where(np.arange(count) < CLIPS, "train", "test")
    modalities = {"video": video, "audio": audio}
    return FusionData.from_arrays(modalities, labels.cpu().numpy(), names, splits, np.arange(count) // 8, labels.device)


def first(every: Sequence[FusionData], clips: int) -> list[FusionData]:
    """Fewer training clips, and none for test: views of the same tensors."""
    shorter = []
    for data in every:
        modalities = {
            name: replace(modality, tokens=modality.tokens[:clips], present=modality.present[:clips])
            for name, modality in data.modalities.items()
            if isinstance(modality, Modality)
        }
        truth = tuple(each[:clips] for each in data.truth)
        train, test, table = data.train[:clips], data.test[:0], data.table[:clips]
        shorter.append(replace(data, modalities=modalities, truth=truth, train=train, test=test, table=table))
    return shorter


# ---- Both ways of training ----


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

    def fits(self, every: Sequence[FusionData], seeds: int) -> list[HeadTrainer]:
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


def train_heads(fits: Sequence[HeadTrainer]) -> list[float]:
    return [loss.total for loss in train_epochs(fits)]


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


# ---- Figures on a CPU ----


def preparation_figure(other: OtherProcess) -> Figure:
    """Standardising all clips, frames side by side: once for many heads on either side."""
    kind = Kind("mlp", BATCHES[0], "flatten")
    other.prepare(plain_preparation, kind)
    return timed(named("fuse_preparation_time_over_plain_flatten"), partial(kind.inputs, made_up()[0]), other.work)


def plain_preparation(kind: Kind) -> Work:
    def work() -> list[float]:
        kind.plain_inputs(made_up()[0])
        return []

    return work


def flatten_figure(batch: int, other: OtherProcess) -> Figure:
    kind = Kind("mlp", batch, "flatten")
    every = kind.measured(made_up()[:1])
    kind.check_inputs(every)
    ours = Side("avfuse", partial(train_heads, kind.fits(every, 1)))
    other.prepare(plain_work, kind, 1, 1)
    theirs = Side("plain loop", other.work)
    figure = timed(named(f"fuse_speedup_flatten_batch{batch}"), ours, theirs, speedup=True)
    check_losses(ours, theirs)
    return figure


def plain_work(kind: Kind, images: int, seeds: int) -> Work:
    return partial(train_plain, kind.plain_loops(kind.measured(made_up()[:images]), seeds))


def mean_figure(batch: int, other: OtherProcess) -> Figure:
    kind = Kind("mlp", batch, "mean")
    every = kind.measured(made_up())
    kind.check_inputs(every)
    fits = kind.fits(every, SEEDS)
    say_how_trained(fits)
    ours = Side(f"avfuse, {len(fits)} heads", partial(train_heads, fits))
    other.prepare(plain_work, kind, IMAGES, SEEDS)
    theirs = Side(f"plain loop, {len(fits)} nets", other.work)
    figure = timed(named(f"fuse_speedup_mean_batch{batch}"), ours, theirs, speedup=True)
    check_losses(ours, theirs)
    return figure


def named(figure: str) -> str:
    return f"{figure}_kept" if KEPT else figure


def say_how_trained(fits: Sequence[HeadTrainer]) -> None:
    head = fits[0].head
    numbers = sum(each.numel() for each in head.parameters())
    together = vectorized.is_faster_vmapped(head, fits[0].inputs.indices.device)
    say(f"{len(fits)} heads of {numbers:,} parameters train {'side by side' if together else 'one by one'}")


def together_figure(batch: int) -> Figure:
    """Both ways that `train_epochs` chooses from."""
    kind = Kind("mlp", batch, "mean")
    some, same = (kind.fits(kind.measured(made_up()), SEEDS) for _ in range(2))
    together = Side("side by side", lambda: [loss.total for loss in vectorized.together(some)])
    alone = Side("one by one", lambda: [fitting.alone(fit).total for fit in same])
    figure = timed(f"fuse_mean_together_over_alone_batch{batch}", together, alone, speedup=True)
    check_losses(together, alone)
    return figure


def sklearn_figure(batch: int, other: OtherProcess) -> Figure:
    kind = Kind("mlp", batch, "mean")
    ours = Side("avfuse", partial(train_heads, kind.fits(kind.measured(made_up()), 1)))
    other.prepare(sklearn_work, kind)
    theirs = Side("scikit-learn", other.work)
    figure = timed(named(f"fuse_speedup_over_sklearn_mean_batch{batch}"), ours, theirs, speedup=True)
    say("scikit-learn has no dropout: it does less work, and its loss is lower")
    check_losses(ours, theirs, same=False)
    return figure


def sklearn_work(kind: Kind) -> Work:
    """partial_fit is one epoch, of nets that keep Adam's moments; nothing is checked for convergence."""
    nets = []
    for data in kind.measured(made_up()):
        nets.append((sklearn_net(kind), kind.plain_inputs(data).numpy(), data.truth[0].numpy()))

    def work() -> list[float]:
        return [net.partial_fit(inputs, labels, classes=np.arange(CLASSES)).loss_ for net, inputs, labels in nets]

    return work


def sklearn_net(kind: Kind) -> MLPClassifier:
    return MLPClassifier(
        tuple(hidden_sizes(kind)),
        solver="adam",
        alpha=0,
        batch_size=kind.batch,
        learning_rate_init=kind.lr,
        random_state=0,
    )


# ---- Tokens from shards ----


def token_figure(in_memory: FusionData, streamed: FusionData) -> Figure:
    """Epochs of equally many steps over the same clips, read from shards and out of tensors."""
    ours, theirs = (
        Side(name, partial(train_heads, [token_fit(data)]))
        for name, data in (("from shards", streamed), ("from memory", in_memory))
    )
    figure = timed("token_step_time_over_in_memory", ours, theirs)
    check_losses(ours, theirs)
    return figure


def token_fit(data: FusionData) -> HeadTrainer:
    head = get_head("bottleneck")
    recipe = head.recipe.model_copy(update={"batch_size": TOKEN_BATCH})
    return HeadTrainer(HeadInputs.of(head.name, data, data.train, head.Options(), recipe), data.truth, recipe, seed=0)


def save_tokens(cache: Path) -> Manifest:
    """Made-up tokens, float16 and in several shards, of clips whose media are not there. Of ten clips eight are for
    training."""
    generator = np.random.default_rng(0)
    numbers = np.arange(TOKEN_CLIPS)
    labels = generator.integers(TOKEN_CLASSES, size=TOKEN_CLIPS)
    names = tuple(f"class {number}" for number in range(TOKEN_CLASSES))
    table = pd.DataFrame(
        {
            "clip_id": [f"clip{number}" for number in numbers],
            "path": [f"{number}.avi" for number in numbers],
            "start": np.nan,
            "end": np.nan,
            "label": [names[label] for label in labels],
            "split": np.select([numbers % 10 == 8, numbers % 10 == 9], ["val", "test"], "train"),
            "group": [f"group{number}" for number in numbers],
        }
    )
    manifest = Manifest("bench", "bench", cache, table, targets=(Target("label", names),))
    clips = manifest.clips()
    for spec in resolve(TOKENS.values(), weights=WeightsChoice("random")):
        points = generator.standard_normal((TOKEN_CLASSES, spec.shape[-1]), dtype=np.float32)
        for first in range(0, TOKEN_CLIPS, CLIPS_PER_SHARD):
            some = slice(first, first + CLIPS_PER_SHARD)
            rows = generator.standard_normal((len(clips[some]), *spec.shape), dtype=np.float32)
            rows = (rows + points[labels[some], None]).astype(np.float16)
            done = [(clip, MISSING) for clip in clips[some]]
            FeatureStore(cache, manifest.collection, spec).commit(ChunkResult(spec, done=done, data=list(rows)))
    return manifest


# ---- A whole table on a GPU ----

TABLE = {
    Kind("audio", 16, lr=3e-4, precision=PRECISION): IMAGES,
    Kind("mlp", 128, "flatten", lr=1e-4, precision=PRECISION): IMAGES,
    Kind("video", 16, "flatten", lr=3e-4, precision=PRECISION): 1,
}
"""Heads of MAiVAR's Table II in the paper's batches and learning rates, and how many data sets each is trained on."""


def table_figures(device: torch.device) -> Iterator[Figure]:
    every = made_up(device)
    our_table(every, 1)
    ours, our_seconds = timed_once(partial(our_table, every, TABLE_EPOCHS))
    say(f"avfuse: preparation, {TABLE_EPOCHS} epochs of {table_heads()} heads in {PRECISION} precision, and a test")
    name = "gpu_table2_seconds" if TABLE_EPOCHS == 100 else f"gpu_table2_seconds_{TABLE_EPOCHS}_epochs"
    yield Figure(name, our_seconds, "s", our_seconds, our_seconds, 1)
    plain_seconds = 0.0
    for (kind, images), side in zip(TABLE.items(), ours, strict=True):
        plain, seconds = plain_kind(kind, every[:images])
        side.losses = side.losses[: len(plain.losses)]
        check_losses(side, plain)
        plain_seconds += seconds
    how = "all of it" if FULL else f"scaled up from {PLAIN_EPOCHS} epochs of one net of each kind"
    say(f"plain loop, float32, {how}, without preparation and test: {plain_seconds:.1f} s")
    speedup = plain_seconds / our_seconds
    yield Figure("gpu_table2_speedup", speedup, "x", speedup, speedup, 1)
    for name, rate in product_rates(device).items():
        share = table_products(every[0]) / our_seconds / rate
        say(f"{name}: {2 * rate / 1e12:.3g} TFLOP/s in a large product")
        yield Figure(f"gpu_share_of_{name}_rate", share, "x", share, share, 1)


def our_table(every: Sequence[FusionData], epochs: int) -> list[Side]:
    sides = []
    for kind, images in TABLE.items():
        fits = kind.fits(every[:images], SEEDS)
        side = Side(f"avfuse, {len(fits)} heads '{kind.head}'", partial(train_companies, fits))
        for _ in range(epochs):
            side()
        for fit in fits:
            predict(fit.head, fit.inputs, every[0].test).cpu()
        sides.append(side)
    return sides


def train_companies(fits: Sequence[HeadTrainer]) -> list[float]:
    """As many at a time as experiments take."""
    size = vectorized.MAX_GROUP_SIZE
    return [loss for first in range(0, len(fits), size) for loss in train_heads(fits[first : first + size])]


def plain_kind(kind: Kind, every: Sequence[FusionData]) -> tuple[Side, float]:
    """All nets of a kind one after the other, and their seconds in all; unless FULL, a few epochs of one, scaled."""
    heads = len(every) * SEEDS
    loops = kind.plain_loops(every, SEEDS) if FULL else kind.plain_loops(every[:1], 2)
    loops[-1].epoch()  # unmeasured
    side = Side(
        f"plain loop, {heads if FULL else 1} nets '{kind.head}'", partial(train_plain, loops if FULL else loops[:1])
    )
    for _ in range(TABLE_EPOCHS if FULL else PLAIN_EPOCHS):
        side()
    return side, sum(side.seconds) if FULL else fmean(side.seconds) * TABLE_EPOCHS * heads


def timed_once(work: Callable[[], list[Side]]) -> tuple[list[Side], float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def table_heads() -> int:
    return SEEDS * sum(TABLE.values())


def table_products(data: FusionData) -> int:
    """Multiplications and additions of all training steps: forward, the gradients of all weights, and those of the
    inputs of all layers but the first."""
    total = 0
    for kind, images in TABLE.items():
        head = kind.inputs(data).new_head()
        first, *others = (layer.weight.numel() for layer in head.modules() if isinstance(layer, nn.Linear))
        total += SEEDS * images * CLIPS * TABLE_EPOCHS * (2 * first + 3 * sum(others))
    return total


if __name__ == "__main__":
    main()
