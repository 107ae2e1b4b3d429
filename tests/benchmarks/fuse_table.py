"""MAiVAR's Table II as a whole on a GPU."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean

import torch
from fuse_data import made_up
from fuse_settings import CLIPS, FULL, IMAGES, PLAIN_EPOCHS, PRECISION, SEEDS, TABLE_EPOCHS, say
from fuse_sides import Kind, Side, check_losses, train_heads, train_plain
from pairs import Figure
from product_rates import product_rates
from torch import nn

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.training import vectorized
from avfuse.stages.fuse.training.head_trainer import HeadTrainer, predict

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
        trainers = kind.trainers(every[:images], SEEDS)
        side = Side(f"avfuse, {len(trainers)} heads '{kind.head}'", partial(train_in_groups, trainers))
        for _ in range(epochs):
            side()
        for trainer in trainers:
            predict(trainer.head, trainer.inputs, every[0].test).cpu()
        sides.append(side)
    return sides


def train_in_groups(trainers: Sequence[HeadTrainer]) -> list[float]:
    """As many at a time as experiments take."""
    size = vectorized.MAX_GROUP_SIZE
    return [loss for first in range(0, len(trainers), size) for loss in train_heads(trainers[first : first + size])]


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
