"""What each modality, or each feature, is worth to a head: Shapley values of test accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from features.errors import UsageError
from stages.fuse.data import FusionData
from stages.fuse.heads import get_head
from stages.fuse.metrics import all_correct
from stages.fuse.modality import base_of
from stages.fuse.statistics import difference_interval
from stages.fuse.trainer import Plan, train_company
from stages.fuse.training import Training

MAX_PLAYERS = 10
"""n players are 2^n - 1 trainings for each seed."""

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
    training: Training,
    seeds: int,
    *,
    split: Sequence[str] = (),
    progress: bool = True,
) -> Contribution:
    """Shapley values (Shapley, "A value for n-person games", 1953) of what a head sees, in test accuracy.

    The value of a coalition is the test accuracy of the head trained on it alone, every time afresh, as in Lipovetsky
    and Conklin, "Analysis of regression in game theory approach" (2001). With features taken away at test only, it
    would measure how badly a head that has never seen a gap takes one, and not what the others know as well. Nothing
    at all is worth the accuracy of guessing the most frequent training class.

    Args:
        split: modalities whose features are players of their own; the others are one player each.

    Raises:
        UsageError: fewer than two players or more than MAX_PLAYERS, a modality that is not there to be split, or a
            training without a modality.
    """
    players = _players(data, head, training, split)
    test = data.test.cpu().numpy()
    truth = [each[data.test].cpu().numpy() for each in data.truth]
    coalitions = [frozenset(each) for size in range(1, len(players) + 1) for each in combinations(players, size)]
    _plans(data, head, training, seeds, coalitions[-1], players)[0].check()
    right: dict[Coalition, NDArray[np.float64]] = {frozenset(): np.tile(_guessed(data), (seeds, 1))}
    with tqdm(total=len(coalitions) * seeds, unit="head", desc="contribution", disable=not progress) as bar:
        for coalition in coalitions:
            plans = _plans(data, head, training, seeds, coalition, players)
            every = train_company(plans)
            right[coalition] = np.array([all_correct(data.targets, each.logits, truth) for each in every], np.float64)
            bar.update(len(plans))
    groups = data.table["group"].to_numpy(dtype=object)[test]
    values = shapley(right)
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


def shapley(values: Mapping[Coalition, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
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


def _players(data: FusionData, head: str, training: Training, split: Sequence[str]) -> dict[str, _Player]:
    """By name. Raises UsageError as `contribution` does."""
    seen = get_head(head).sees(training.options(head))
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
        players |= {base_of(spec)[0]: _Player(name, f"{spec.name}@{spec.key}") for spec in layout.alternatives[0]}
    if not 2 <= len(players) <= MAX_PLAYERS:
        raise UsageError(
            f"contributions are of 2 to {MAX_PLAYERS} players, and head '{head}' sees {len(players)} here "
            f"({', '.join(players)}): name {'a head that sees more' if len(players) < 2 else 'fewer features'}"
        )
    return players


def _plans(
    data: FusionData, head: str, training: Training, seeds: int, coalition: Coalition, players: Mapping[str, _Player]
) -> list[Plan]:
    """A head for each seed that sees the coalition alone."""
    members = [player for name, player in players.items() if name in coalition]
    features: dict[str, list[str]] = {}
    for player in members:
        if player.feature is not None:
            features.setdefault(player.modality, []).append(player.feature)
    absent = {player.modality for player in players.values()} - {player.modality for player in members}
    its_training = training.plus({"without": next(iter(absent))}) if absent else training
    its_data = data.only(features) if features else data
    return [Plan.of(head, its_data, seed, its_training) for seed in range(seeds)]


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
