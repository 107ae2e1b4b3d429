"""Predictions of a run as files: a CSV table, or a submission to the EPIC-KITCHENS-100 challenge."""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from avfuse.features.atomic import atomic_write
from avfuse.features.errors import UsageError
from avfuse.manifests.manifest import SEPARATOR
from avfuse.stages.fuse.data.targets import LearnedTarget
from avfuse.stages.fuse.evaluation.metrics import Truth
from avfuse.stages.fuse.runs.predict import Predictions, probabilities

TOP_ACTIONS = 100
"""Number of actions per clip that the challenge's server takes."""

_DECIMALS = 5


def write_csv(predictions: Predictions, target: Path) -> None:
    """Write a line per clip: its id, and per target the likeliest class, its probability and, where known, the true
    class; several true classes are joined by "|"."""
    targets = predictions.run.targets
    columns = [_columns(*parts) for parts in zip(targets, predictions.scores, _truth(predictions), strict=True)]
    with _written(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip_id", *(heading for of_target in columns for heading in of_target)])
        writer.writerows(
            zip(predictions.clip_ids, *(values for of_target in columns for values in of_target.values()), strict=True)
        )


def write_epic(predictions: Predictions, target: Path, levels: Mapping[str, int]) -> None:
    """Write the JSON of the EPIC-KITCHENS-100 action recognition challenge, version 0.2: log-probabilities of every
    verb and noun by official number, and probabilities of the `TOP_ACTIONS` likeliest pairs. Clip ids are the builder's
    narration ids. Source of the format: create_submission.py of github.com/epic-kitchens/C1-Action-Recognition.

    Args:
        predictions: of a run with the targets verb and noun.
        target: the file.
        levels: `sls_pt`, `sls_tl` and `sls_td` of the supervision levels scale.

    Raises UsageError for a run with other targets, or classes without official numbers.
    """
    verbs, nouns = (_OfficialScores.of(predictions, name) for name in ("verb", "noun"))
    header = {"version": "0.2", "challenge": "action_recognition", **levels}
    with _written(target) as file:
        file.write(json.dumps(header)[:-1] + ', "results": {')
        for number, clip_id in enumerate(predictions.clip_ids):
            entry = {
                "verb": verbs.by_number(number),
                "noun": nouns.by_number(number),
                "action": _likeliest_pairs(verbs, nouns, number),
            }
            file.write(f"{',' if number else ''}\n{json.dumps(clip_id)}: {json.dumps(entry, separators=(',', ':'))}")
        file.write("\n}}\n")


class _OfficialScores:
    """One target's scores (n, C) in the order of its official numbers (C,)."""

    def __init__(self, scores: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
        order = np.argsort(numbers)
        self.numbers, self.scores = numbers[order].tolist(), scores[:, order]

    @classmethod
    def of(cls, predictions: Predictions, name: str) -> "_OfficialScores":
        run = predictions.run
        scores_by_name = {
            target.name: (target, scores) for target, scores in zip(run.targets, predictions.scores, strict=True)
        }
        if name not in scores_by_name or scores_by_name[name][0].several:
            names = ", ".join(scores_by_name)
            raise UsageError(f"--format epic needs the targets verb and noun, and {run.folder} has {names}: take csv")
        target, scores = scores_by_name[name]
        official = run.described["manifest"].get("class_ids", {}).get(name, {})
        if not official:
            raise UsageError(
                f"the manifest of '{run.described['dataset']}' does not give the official numbers of {name} classes "
                "(class_ids): build it again from EPIC-KITCHENS-100's own lists, and train again"
            )
        _check_same(set(target.classes), set(official), f"{name} class", run.folder)
        return cls(scores, np.array([official[label] for label in target.classes], dtype=np.int64))

    def by_number(self, clip: int) -> dict[str, float]:
        values = np.round(self.scores[clip], _DECIMALS).tolist()
        return {str(number): value for number, value in zip(self.numbers, values, strict=True)}


def _check_same(known: set[str], official: set[str], what: str, folder: Path) -> None:
    for missing, where in ((official - known, "the heads know"), (known - official, "the manifest's class_ids have")):
        if missing:
            raise UsageError(
                f"{folder}: of {len(known | official)} {what}es {where} all but {len(missing)}, such as "
                f"'{min(missing)}': train on the whole data set"
            )


def _likeliest_pairs(verbs: _OfficialScores, nouns: _OfficialScores, clip: int) -> dict[str, float]:
    """Probabilities of the likeliest pairs by `verb,noun`, in descending order."""
    pairs = (verbs.scores[clip][:, None] + nouns.scores[clip][None, :]).ravel()
    top = np.argpartition(-pairs, min(TOP_ACTIONS, len(pairs)) - 1)[:TOP_ACTIONS]
    top = top[np.argsort(-pairs[top], kind="stable")]
    return {
        f"{verbs.numbers[pair // len(nouns.numbers)]},{nouns.numbers[pair % len(nouns.numbers)]}": float(f"{value:.6g}")
        for pair, value in zip(top.tolist(), np.exp(pairs[top]).tolist(), strict=True)
    }


def _columns(target: LearnedTarget, scores: NDArray[np.float64], truth: Truth | None) -> dict[str, list[str]]:
    guess = scores.argmax(axis=1)
    best = np.take_along_axis(scores, guess[:, None], axis=1)[:, 0]
    columns = {
        target.name: [target.classes[index] for index in guess],
        f"{target.name}_probability": [f"{value:.4f}" for value in probabilities(target, best)],
    }
    if truth is not None:
        true = [np.flatnonzero(labels) for labels in truth] if target.several else truth[:, None]
        columns[f"{target.name}_truth"] = [
            SEPARATOR.join(target.classes[index] for index in of_clip) for of_clip in true
        ]
    return columns


def _truth(predictions: Predictions) -> tuple[Truth | None, ...]:
    return predictions.truth or (None,) * len(predictions.run.targets)


@contextmanager
def _written(target: Path) -> Iterator[TextIO]:
    """A file that appears whole or not at all."""
    with atomic_write(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file
