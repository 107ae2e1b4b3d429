"""What each modality, or each feature, is worth to a head: Shapley values of test accuracy."""

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
from avfuse.stages.fuse.training.checkpoint import Checkpoint
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_jobs
from avfuse.stages.fuse.training.vectorized import MAX_GROUP_SIZE, group_key, job_groups

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"shapley": "shapley_values"})

MAX_PLAYERS = 10
"""n players are 2^n - 1 trainings for each seed."""

_COPIED_BYTES = 2**30
"""Of features that coalitions trained side by side hold of their own, about, at most."""

Coalition = frozenset[str]


@dataclass(frozen=True)
class Contribution:
    """Shares of 1 throughout; accuracy is Targets.measure, averaged over seeds.

    players: a line a player. `player`, `modality`; `value`, its Shapley value, with `low` and `high`, the 95 % interval
        over seeds and groups of test clips, and `seed_sd`, the standard deviation over seeds; `alone`, what it adds to
        nothing; `last`, what it adds to all the others. Values sum to the accuracy with everything less that with
        nothing.
    coalitions: a line a set of players, joined by "+": `players`, `size`, `accuracy`, `seed_sd`. The first is of none.
    clips: a line a test clip by `clip_id`, a column a `player` and `seed`: what the player contributes to that clip's
        being right, -1 to 1. The mean of a player's columns is its value, as Shapley values are linear, and any other
        interval can be had from them.
    """

    players: pd.DataFrame
    coalitions: pd.DataFrame
    clips: pd.DataFrame


@dataclass(frozen=True)
class _Player:
    """A modality, or where it is split one feature of it, under the name that it was loaded by."""

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
    """Shapley values (Shapley, "A value for n-person games", 1953) of what a head sees, in test accuracy.

    The value of a coalition is the test accuracy of the head trained on it alone, every time afresh, as in Lipovetsky
    and Conklin, "Analysis of regression in game theory approach" (2001). With features taken away at test only, it
    would measure how badly a head that has never seen a gap takes one, and not what the others know as well. Nothing
    at all is worth the accuracy of guessing the most frequent training class.

    Args:
        split: modalities whose features are players of their own; the others are one player each.
        keep: a folder in which it is kept what has been trained, so that the same call goes on where one was broken
            off; the caller removes it. Heads of equal shape train side by side, and are kept when they are through.

    Raises:
        UsageError: fewer than two players or more than MAX_PLAYERS, a modality that is not there to be split, a
            training without a modality, or a damaged file in `keep`.
    """
    players = _players(data, head, training, split)
    game = _Game(data, head, training, seeds, players)
    game.plan(game.coalitions[-1], 0).check()
    folder = None if keep is None else keep / contribution_key(data, head, training, seeds, split)
    hits = game.play(folder, progress)
    right: dict[Coalition, NDArray[np.float64]] = {frozenset(): np.tile(_guessed(data), (seeds, 1))}
    for coalition in game.coalitions:
        right[coalition] = np.array([hits[coalition, seed] for seed in range(seeds)], np.float64)
    test = data.test.cpu().numpy()
    groups = data.table["group"].to_numpy(dtype=object)[test]
    values = shapley_values(right)
    clips = pd.concat({name: pd.DataFrame(each.T) for name, each in values.items()}, axis=1, names=["player", "seed"])
    return Contribution(
        pd.DataFrame(_line(name, player, right, values[name], groups) for name, player in players.items()),
        pd.DataFrame(
            {
                "players": "+".join(name for name in players if name in coalition),
                "size": len(coalition),
                "accuracy": each.mean(),
                "seed_sd": _spread(each),
            }
            for coalition, each in right.items()
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
    """The Shapley value of every player: what it adds to the players before it, averaged over all their orders.

    values: of every coalition, the empty one among them, in arrays of one shape, number by number.
    """
    players = [name for coalition in values if len(coalition) == 1 for name in coalition]
    found = {player: np.zeros_like(values[frozenset()]) for player in players}
    for coalition, value in values.items():
        orders = len(players) * comb(len(players) - 1, len(coalition))
        for player in players:
            if player not in coalition:
                found[player] += (values[coalition | {player}] - value) / orders
    return found


def _players(data: FusionData, head: str, training: TrainingOverrides, split: Sequence[str]) -> dict[str, _Player]:
    """By name. Raises UsageError as `contribution` does."""
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
class _Game:
    """All heads to train: each coalition of players from each seed."""

    data: FusionData
    head: str
    training: TrainingOverrides
    seeds: int
    players: Mapping[str, _Player]

    @cached_property
    def coalitions(self) -> list[Coalition]:
        """All but the empty one, the smallest first."""
        names = list(self.players)
        return [frozenset(each) for size in range(1, len(names) + 1) for each in combinations(names, size)]

    def play(self, folder: Path | None, progress: bool) -> dict[tuple[Coalition, int], NDArray[np.bool_]]:
        """Whether the head of a coalition and a seed gets each test clip right, bool (n_test,)."""
        jobs = [(coalition, seed) for coalition in self.coalitions for seed in range(self.seeds)]
        kinds = (group_key(self.plan(coalition, 0)) for coalition in self.coalitions)
        hits: dict[tuple[Coalition, int], NDArray[np.bool_]] = {}
        with tqdm(total=len(jobs), unit="head", desc="contribution", disable=not progress) as bar:
            for group in job_groups(jobs, (kind for kind in kinds for _ in range(self.seeds)), self._side_by_side):
                kept = None if folder is None else _Kept.of(folder, group)
                if kept is None or (found := kept.load()) is None:
                    found = self._train(group, kept)
                hits |= dict(zip(group, found, strict=True))
                bar.update(len(group))
        return hits

    def plan(self, coalition: Coalition, seed: int) -> TrainingJob:
        """A head that sees the coalition alone."""
        members = [self.players[name] for name in self.players if name in coalition]
        absent = {player.modality for player in self.players.values()} - {player.modality for player in members}
        training = self.training.updated({"without": next(iter(absent))}) if absent else self.training
        features: dict[str, list[str]] = {}
        for player in members:
            if player.feature is not None:
                features.setdefault(player.modality, []).append(player.feature)
        return TrainingJob.of(self.head, self.data.only(features) if features else self.data, seed, training)

    @property
    def _side_by_side(self) -> int:
        """How many heads at most: a coalition has a copy of what is split for itself, as loaded and as prepared."""
        split = {player.modality for player in self.players.values() if player.feature is not None}
        modalities = [self.data.modalities[name] for name in split]
        copied = sum(
            2 * (each.tokens if each.views is None else each.views).nbytes
            for each in modalities
            if isinstance(each, Modality)
        )
        return min(MAX_GROUP_SIZE, self.seeds * max(1, _COPIED_BYTES // max(copied, 1)))

    def _train(self, group: Sequence[tuple[Coalition, int]], kept: "_Kept | None") -> NDArray[np.bool_]:
        """(heads, n_test)."""
        plan_of = {coalition: self.plan(coalition, 0) for coalition in dict(group)}
        plans = [replace(plan_of[coalition], seed=seed) for coalition, seed in group]
        every = train_jobs(plans, checkpoint=None if kept is None else kept.checkpoint)
        truth = [each[self.data.test].cpu().numpy() for each in self.data.truth]
        hits = np.array([all_correct(self.data.targets, each.logits, truth) for each in every])
        if kept is not None:
            kept.save(hits)
        return hits


@dataclass(frozen=True)
class _Kept:
    """What a company has come to: its checkpoint, and when it is through its hits, bool (heads, n_test)."""

    file: Path
    checkpoint: Checkpoint

    @classmethod
    def of(cls, folder: Path, group: Sequence[tuple[Coalition, int]]) -> Self:
        members = json.dumps([[sorted(coalition), seed] for coalition, seed in group])
        key = sha256(members.encode()).hexdigest()[:16]
        return cls(folder / f"{key}.npz", Checkpoint(folder / f"{key}.safetensors", key))

    def load(self) -> NDArray[np.bool_] | None:
        """None where there is nothing yet."""
        if not self.file.exists():
            return None
        try:
            with np.load(self.file, allow_pickle=False) as saved:
                return saved["hits"]
        except (BadZipFile, KeyError, ValueError, EOFError) as error:
            raise UsageError(f"{self.file} is damaged ({error}): remove it, and its heads are trained again") from error

    def save(self, hits: NDArray[np.bool_]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.file, suffix=".npz") as temporary:  # NumPy adds the ending where it is missing
            np.savez_compressed(temporary, hits=hits)
        self.checkpoint.remove()


def _line(
    name: str,
    player: _Player,
    right: Mapping[Coalition, NDArray[np.float64]],
    value: NDArray[np.float64],
    groups: NDArray[np.object_],
) -> dict[str, object]:
    """Of `Contribution.players`. value: (seeds, n_test)."""
    nothing, everyone = min(right, key=len), max(right, key=len)
    span = difference_interval(value, groups)
    return {
        "player": name,
        "modality": player.modality,
        "value": span.mean,
        "low": span.low,
        "high": span.high,
        "seed_sd": _spread(value),
        "alone": right[frozenset({name})].mean() - right[nothing].mean(),
        "last": right[everyone].mean() - right[everyone - {name}].mean(),
    }


def _guessed(data: FusionData) -> NDArray[np.float64]:
    """How likely the most frequent class of the clips that heads are fitted on is right for each test clip, every
    target of it; among equally frequent ones chance decides. float64 (n_test,)."""
    fitted = np.concatenate([data.train.cpu().numpy(), data.validation.cpu().numpy()])
    test = data.test.cpu().numpy()
    chances = np.ones(len(test))
    for target, each in zip(data.targets, data.truth, strict=True):
        truth = each.cpu().numpy()
        has = truth if target.several else truth[:, None] == np.arange(len(target.classes))
        counts = has[fitted].sum(axis=0)
        chances *= has[test][:, counts == counts.max()].mean(axis=1)
    return chances


def _spread(each: NDArray[np.float64]) -> float:
    """Over seeds. (seeds, n)."""
    return float(each.mean(axis=1).std(ddof=1)) if len(each) > 1 else float("nan")
