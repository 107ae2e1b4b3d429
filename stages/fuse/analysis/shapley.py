"""Shapley values of modalities and features in a head's test accuracy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import combinations
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Self
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from avfuse.features.atomic import atomic_write
from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import Modality, split_view
from avfuse.stages.fuse.evaluation.metrics import all_correct
from avfuse.stages.fuse.evaluation.statistics import difference_interval
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.training.checkpoint import TrainingCheckpoint
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_jobs
from avfuse.stages.fuse.training.vectorized import MAX_GROUP_SIZE, group_key, job_groups

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"shapley": "shapley_values"})

MAX_PLAYERS = 10
"""n players take 2^n - 1 trainings per seed."""

_COPIED_BYTES = 2**30
"""Limit, about, on the copies of features that coalitions trained in one group hold."""

Coalition = frozenset[str]


@dataclass(frozen=True)
class Contribution:
    """Shapley values of one head, as shares of 1; accuracy is Targets.measure, averaged over seeds."""

    players: pd.DataFrame
    """A line per player: `player`, `modality`; `value`, its Shapley value, with `low` and `high`, the 95 % interval
    over seeds and groups of test clips, and `seed_sd`, the standard deviation over seeds; `alone`, what it adds to
    nothing; `last`, what it adds to all the others. Values sum to the accuracy of all players less that of none."""
    coalitions: pd.DataFrame
    """A line per coalition, the empty one first: `players`, joined by "+", `size`, `accuracy`, `seed_sd`."""
    clips: pd.DataFrame
    """A line per test clip by `clip_id`, a column per `player` and `seed`: the player's part in that clip's being
    right, -1 to 1. As Shapley values are linear, the mean of a player's columns is its value."""


@dataclass(frozen=True)
class _Player:
    """A modality, or one feature of a split modality, by the name that it was loaded by."""

    modality: str
    feature: str | None = None


def contribution(
    data: FusionData,
    head: str,
    training: TrainingOverrides,
    seeds: int,
    *,
    split: Sequence[str] = (),
    keep: Path | None = None,
    progress: bool = True,
) -> Contribution:
    """Shapley values (Shapley, "A value for n-person games", 1953) of a head's inputs, in test accuracy.

    The value of a coalition is the test accuracy of the head retrained on it alone, as in Lipovetsky and Conklin,
    "Analysis of regression in game theory approach" (2001). Features taken away at test only would instead measure how
    badly a head takes a gap that it has never seen. The empty coalition is worth the accuracy of guessing the most
    frequent training class.

    Args:
        split: modalities whose features are players of their own; the others are one player each.
        keep: a folder for finished groups of heads and checkpoints, from which the same call resumes; the caller
            removes it.

    Raises:
        UsageError: fewer than two players or more than MAX_PLAYERS, a modality that cannot be split, a training
            without a modality, or a damaged file in `keep`.
    """
    players = _players(data, head, training, split)
    jobs = CoalitionJobs(data, head, training, seeds, players)
    jobs.job(jobs.coalitions[-1], 0).check()
    folder = None if keep is None else keep / contribution_key(data, head, training, seeds, split)
    correct = jobs.run(folder, progress)
    accuracies: dict[Coalition, NDArray[np.float64]] = {frozenset(): np.tile(_guess_accuracy(data), (seeds, 1))}
    for coalition in jobs.coalitions:
        accuracies[coalition] = np.array([correct[coalition, seed] for seed in range(seeds)], np.float64)
    test = data.test.cpu().numpy()
    groups = data.table["group"].to_numpy(dtype=object)[test]
    values = shapley_values(accuracies)
    clips = pd.concat({name: pd.DataFrame(value.T) for name, value in values.items()}, axis=1, names=["player", "seed"])
    return Contribution(
        pd.DataFrame(_player_line(name, player, accuracies, values[name], groups) for name, player in players.items()),
        pd.DataFrame(
            {
                "players": "+".join(name for name in players if name in coalition),
                "size": len(coalition),
                "accuracy": accuracy.mean(),
                "seed_sd": _seed_sd(accuracy),
            }
            for coalition, accuracy in accuracies.items()
        ),
        clips.set_index(pd.Index(data.table["clip_id"].to_numpy()[test], name="clip_id")),
    )


def contribution_key(
    data: FusionData, head: str, training: TrainingOverrides, seeds: int, split: Sequence[str] = ()
) -> str:
    """A hash of all that `contribution` depends on."""
    content = {
        "data": data.fingerprint,
        "head": [head, get_head(head).revision],
        "recipe": training.recipe(head).model_dump(),
        "options": training.options(head).model_dump(),
        "shuffle_labels": training.shuffle_labels,
        "seeds": seeds,
        "split": sorted(split),
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def shapley_values(values: Mapping[Coalition, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The mean of what each player adds to those before it, over all orders of the players.

    values: of every coalition, the empty one included, in arrays of one shape, element by element.
    """
    players = [name for coalition in values if len(coalition) == 1 for name in coalition]
    shapley = {player: np.zeros_like(values[frozenset()]) for player in players}
    for coalition, value in values.items():
        orders = len(players) * comb(len(players) - 1, len(coalition))
        for player in players:
            if player not in coalition:
                shapley[player] += (values[coalition | {player}] - value) / orders
    return shapley


def _players(data: FusionData, head: str, training: TrainingOverrides, split: Sequence[str]) -> dict[str, _Player]:
    """Players by name. Raises UsageError as `contribution`."""
    seen = get_head(head).used_modalities(training.options(head))
    if without := training.recipe(head).without:
        raise UsageError(f"without={without}: contributions are found by taking modalities away, leave it out")
    for name in split:
        if name not in seen:
            raise UsageError(f"head '{head}' sees no {name} whose features could be split: it sees {', '.join(seen)}")
    players: dict[str, _Player] = {}
    for name in seen:
        if name not in split:
            players[name] = _Player(name)
            continue
        layout = data.modalities[name].layout
        if layout is None:
            raise UsageError(f"the numbers of {name} have no features' names to split them by")
        players |= {split_view(spec)[0]: _Player(name, f"{spec.name}@{spec.key}") for spec in layout.alternatives[0]}
    if not 2 <= len(players) <= MAX_PLAYERS:
        raise UsageError(
            f"contributions are of 2 to {MAX_PLAYERS} players, and head '{head}' sees {len(players)} here "
            f"({', '.join(players)}): name {'a head that sees more' if len(players) < 2 else 'fewer features'}"
        )
    return players


@dataclass(frozen=True)
class CoalitionJobs:
    """Jobs of the study: a head for each coalition of players and each seed."""

    data: FusionData
    head: str
    training: TrainingOverrides
    seeds: int
    players: Mapping[str, _Player]

    @cached_property
    def coalitions(self) -> list[Coalition]:
        """All coalitions but the empty one, the smallest first."""
        names = list(self.players)
        return [frozenset(members) for size in range(1, len(names) + 1) for members in combinations(names, size)]

    def run(self, folder: Path | None, progress: bool) -> dict[tuple[Coalition, int], NDArray[np.bool_]]:
        """Train what `folder` lacks. -> for each coalition and seed, which test clips are right, (n_test,)."""
        members = [(coalition, seed) for coalition in self.coalitions for seed in range(self.seeds)]
        keys = [group_key(self.job(coalition, 0)) for coalition in self.coalitions]
        correct: dict[tuple[Coalition, int], NDArray[np.bool_]] = {}
        with tqdm(total=len(members), unit="head", desc="contribution", disable=not progress) as bar:
            for group in job_groups(members, (key for key in keys for _ in range(self.seeds)), self._max_group_size):
                results = None if folder is None else _GroupResults.of(folder, group)
                if results is None or (of_group := results.load()) is None:
                    of_group = self._train(group, results)
                correct |= dict(zip(group, of_group, strict=True))
                bar.update(len(group))
        return correct

    def job(self, coalition: Coalition, seed: int) -> TrainingJob:
        """The training of a head that sees the coalition alone."""
        members = [self.players[name] for name in self.players if name in coalition]
        absent = {player.modality for player in self.players.values()} - {player.modality for player in members}
        training = self.training.updated({"without": next(iter(absent))}) if absent else self.training
        features: dict[str, list[str]] = {}
        for player in members:
            if player.feature is not None:
                features.setdefault(player.modality, []).append(player.feature)
        return TrainingJob.of(self.head, self.data.only(features) if features else self.data, seed, training)

    @property
    def _max_group_size(self) -> int:
        """Limit of coalitions per group: each copies the features of split modalities twice, loaded and prepared."""
        split = {player.modality for player in self.players.values() if player.feature is not None}
        modalities = [self.data.modalities[name] for name in split]
        copied = sum(
            2 * (modality.tokens if modality.views is None else modality.views).nbytes
            for modality in modalities
            if isinstance(modality, Modality)
        )
        return min(MAX_GROUP_SIZE, self.seeds * max(1, _COPIED_BYTES // max(copied, 1)))

    def _train(self, group: Sequence[tuple[Coalition, int]], results: "_GroupResults | None") -> NDArray[np.bool_]:
        """(heads, n_test)."""
        of_coalition = {coalition: self.job(coalition, 0) for coalition in dict(group)}
        jobs = [replace(of_coalition[coalition], seed=seed) for coalition, seed in group]
        heads = train_jobs(jobs, checkpoint=None if results is None else results.checkpoint)
        truth = [of_target[self.data.test].cpu().numpy() for of_target in self.data.truth]
        correct = np.array([all_correct(self.data.targets, head.logits, truth) for head in heads])
        if results is not None:
            results.save(correct)
        return correct


@dataclass(frozen=True)
class _GroupResults:
    """The files of one group of heads: a checkpoint in training, then which test clips are right (heads, n_test)."""

    file: Path
    checkpoint: TrainingCheckpoint

    @classmethod
    def of(cls, folder: Path, group: Sequence[tuple[Coalition, int]]) -> Self:
        members = json.dumps([[sorted(coalition), seed] for coalition, seed in group])
        key = sha256(members.encode()).hexdigest()[:16]
        return cls(folder / f"{key}.npz", TrainingCheckpoint(folder / f"{key}.safetensors", key))

    def load(self) -> NDArray[np.bool_] | None:
        """None where the group is unfinished."""
        if not self.file.exists():
            return None
        try:
            with np.load(self.file, allow_pickle=False) as saved:
                return saved["hits"]
        except (BadZipFile, KeyError, ValueError, EOFError) as error:
            raise UsageError(f"{self.file} is damaged ({error}): remove it, and its heads are trained again") from error

    def save(self, correct: NDArray[np.bool_]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.file, suffix=".npz") as temporary:  # NumPy adds the ending where it is missing
            np.savez_compressed(temporary, hits=correct)
        self.checkpoint.remove()


def _player_line(
    name: str,
    player: _Player,
    accuracies: Mapping[Coalition, NDArray[np.float64]],
    value: NDArray[np.float64],
    groups: NDArray[np.object_],
) -> dict[str, object]:
    """Of `Contribution.players`. value: (seeds, n_test)."""
    nothing, everyone = min(accuracies, key=len), max(accuracies, key=len)
    span = difference_interval(value, groups)
    return {
        "player": name,
        "modality": player.modality,
        "value": span.mean,
        "low": span.low,
        "high": span.high,
        "seed_sd": _seed_sd(value),
        "alone": accuracies[frozenset({name})].mean() - accuracies[nothing].mean(),
        "last": accuracies[everyone].mean() - accuracies[everyone - {name}].mean(),
    }


def _guess_accuracy(data: FusionData) -> NDArray[np.float64]:
    """The probability that the most frequent training class is right for each test clip, in every target; among equally
    frequent ones chance decides. float64 (n_test,)."""
    fitted = np.concatenate([data.train.cpu().numpy(), data.validation.cpu().numpy()])
    test = data.test.cpu().numpy()
    accuracy = np.ones(len(test))
    for target, of_target in zip(data.targets, data.truth, strict=True):
        truth = of_target.cpu().numpy()
        has = truth if target.several else truth[:, None] == np.arange(len(target.classes))
        counts = has[fitted].sum(axis=0)
        accuracy *= has[test][:, counts == counts.max()].mean(axis=1)
    return accuracy


def _seed_sd(values: NDArray[np.float64]) -> float:
    """(seeds, n)."""
    return float(values.mean(axis=1).std(ddof=1)) if len(values) > 1 else float("nan")
