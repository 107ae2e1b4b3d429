"""Heads on a CPU: preparation, one head, many heads, against the plain loop and scikit-learn."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from fuse_data import made_up
from fuse_settings import BATCHES, CLASSES, IMAGES, KEPT, ONLY, SEEDS, say, timed
from fuse_sides import Kind, OtherProcess, Side, Work, check_losses, hidden_sizes, train_heads, train_plain
from pairs import Figure
from sklearn.neural_network import MLPClassifier

from avfuse.stages.fuse.training import vectorized
from avfuse.stages.fuse.training.head_trainer import HeadTrainer, train_epoch


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
    ours = Side("avfuse", partial(train_heads, kind.trainers(every, 1)))
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
    trainers = kind.trainers(every, SEEDS)
    say_how_trained(trainers)
    ours = Side(f"avfuse, {len(trainers)} heads", partial(train_heads, trainers))
    other.prepare(plain_work, kind, IMAGES, SEEDS)
    theirs = Side(f"plain loop, {len(trainers)} nets", other.work)
    figure = timed(named(f"fuse_speedup_mean_batch{batch}"), ours, theirs, speedup=True)
    check_losses(ours, theirs)
    return figure


def named(figure: str) -> str:
    return f"{figure}_kept" if KEPT else figure


def say_how_trained(trainers: Sequence[HeadTrainer]) -> None:
    head = trainers[0].head
    numbers = sum(parameter.numel() for parameter in head.parameters())
    together = vectorized.is_faster_vmapped(head, trainers[0].inputs.indices.device)
    say(f"{len(trainers)} heads of {numbers:,} parameters train {'side by side' if together else 'one by one'}")


def together_figure(batch: int) -> Figure:
    """Both ways that `train_epochs` chooses from."""
    kind = Kind("mlp", batch, "mean")
    some, same = (kind.trainers(kind.measured(made_up()), SEEDS) for _ in range(2))
    together = Side("side by side", lambda: [loss.total for loss in vectorized.train_epoch_vmapped(some)])
    alone = Side("one by one", lambda: [train_epoch(trainer).total for trainer in same])
    figure = timed(f"fuse_mean_together_over_alone_batch{batch}", together, alone, speedup=True)
    check_losses(together, alone)
    return figure


def sklearn_figure(batch: int, other: OtherProcess) -> Figure:
    kind = Kind("mlp", batch, "mean")
    ours = Side("avfuse", partial(train_heads, kind.trainers(kind.measured(made_up()), 1)))
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
