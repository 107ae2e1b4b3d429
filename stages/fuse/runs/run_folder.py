"""A finished run, read back.

runs/<dataset>/<name>/
    run.json                    what the numbers depend on
    results.csv                 one line per row and seed
    <row>/seed-<n>.json         settings and metrics of one trained head
    <row>/seed-<n>.curve.csv    its learning curve
    <row>/seed-<n>.npz          its predictions: clip_id, logits and target_<name> of test clips,
                                unlabelled_clip_id and unlabelled_logits
    <row>/seed-<n>.safetensors  its weights
    <row>/seed-<n>.space.safetensors  where it was trained with contrast, its layers to the common space
    <row>/choice-<n>.json       where validation picks rows: the learning curve that says so
    .training/                  checkpoints of what is being trained

A row is a head, or in a sweep a head and the values swept: `mlp`, `mlp,lr=1e-4,l1=0`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.metrics import Truth

FORMAT_VERSION = 4


@dataclass(frozen=True)
class SeedResult:
    """One trained head, read back: logits float32 (n_test, width) and the truth, an array a target, in the order of
    clip_ids. `row` is its head with the values swept."""

    row: str
    seed: int
    file: Path
    described: dict[str, Any]
    clip_ids: list[str]
    truth: tuple[Truth, ...]
    logits: NDArray[np.float32]
    curve: pd.DataFrame

    @property
    def head(self) -> str:
        """The row without the values swept."""
        return head_of(self.row)

    def unlabelled(self) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of the unlabelled clips, and their logits (n_unlabelled, width)."""
        with np.load(self.file, allow_pickle=False) as saved:
            return [clip_id.decode() for clip_id in saved["unlabelled_clip_id"]], saved["unlabelled_logits"]


@dataclass(frozen=True)
class Run:
    """A named set of trained heads over one data set, by row. `groups` (n_test,) go with every SeedResult's clips."""

    folder: Path
    described: dict[str, Any]
    heads: dict[str, list[SeedResult]]

    @cached_property
    def targets(self) -> Targets:
        return Targets.from_dicts(self.described["targets"])

    @property
    def groups(self) -> NDArray[np.object_]:
        """The group of each test clip (n_test,), in the order of SeedResult.clip_ids."""
        return np.array(self.described["test_groups"], dtype=object)


def head_of(row: str) -> str:
    """The head of a row."""
    return row.partition(",")[0]


def load_run(folder: Path, head: str | None = None) -> Run:
    """Read a run back, all of its heads or one. Raises UsageError when there is none, or another version made it."""
    described = read_run_metadata(folder)
    heads: dict[str, list[SeedResult]] = {}
    for name in described["rows"]:
        if head in (None, name) and (paths := seed_files(folder, name)):
            heads[name] = [_load_head(described["targets"], name, path) for path in paths]
    return Run(folder, described, heads)


def read_run_metadata(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises UsageError when there is none, or another version made it."""
    described = read_json(folder / "run.json")
    if described.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"{folder} holds a run of another version of avfuse, which cannot be read: train it again (--replace)"
        )
    return described


def count_seeds(folder: Path) -> dict[str, int]:
    """How many seeds of which rows a run's folder holds."""
    rows = read_run_metadata(folder)["rows"]
    return {row: len(paths) for row in rows if (paths := seed_files(folder, row))}


def seed_files(folder: Path, head: str) -> list[Path]:
    return sorted((folder / head).glob("seed-*.json"), key=lambda path: int(path.stem.split("-")[1]))


def results_table(run: Run) -> pd.DataFrame:
    """One line per head and seed: what was swept, what was measured (shares of 1; nll in nats), what it cost."""
    return pd.DataFrame(
        [
            {
                "head": one.head,
                **one.described["swept"],
                "seed": one.seed,
                **one.described["metrics"],
                **one.described["cost"],
            }
            for runs in run.heads.values()
            for one in runs
        ]
    )


def _load_head(targets: Sequence[Mapping[str, Any]], head: str, path: Path) -> SeedResult:
    stem = path.with_suffix("")
    file = path.with_suffix(".npz")
    with np.load(file, allow_pickle=False) as saved:
        return SeedResult(
            row=head,
            seed=int(stem.name.split("-")[1]),
            file=file,
            described=read_json(path),
            clip_ids=[clip_id.decode() for clip_id in saved["clip_id"]],
            truth=tuple(saved[f"target_{each['name']}"] for each in targets),
            logits=saved["logits"],
            curve=pd.read_csv(f"{stem}.curve.csv"),
        )


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise UsageError(
            f"{path.parent} holds no run ({path.name} is missing): train one with avfuse fuse, or name another "
            "(avfuse runs list)"
        ) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is damaged ({error}): train again with --replace") from error
