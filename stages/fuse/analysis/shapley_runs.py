"""Contributions saved under a name, where what is finished is not trained again.

runs/<dataset>/<name>/
    contribution.json   data and settings; written last, it marks the study complete
    contribution.csv    a line per player
    coalitions.csv      a line per coalition
    clips.csv           a line per player and test clip, a column per seed
    .training/          finished groups of heads of an unfinished study

The tables are those of `Contribution`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.analysis.shapley import Contribution, contribution, contribution_key
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.runs.experiment import describe_data
from avfuse.stages.fuse.runs.run_folder import RunFolder, list_differences, write_json
from avfuse.stages.fuse.training.overrides import TrainingOverrides

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ContributionRun:
    """A contribution read back: `players` and `coalitions` as `Contribution` has them."""

    folder: Path
    described: dict[str, Any]
    players: pd.DataFrame
    coalitions: pd.DataFrame


def run_contribution(
    data: FusionData,
    folder: Path,
    head: str,
    training: TrainingOverrides,
    seeds: int,
    described: Mapping[str, Any],
    *,
    split: Sequence[str] = (),
    replace: bool = False,
    progress: bool = True,
) -> ContributionRun:
    """Compute a contribution into `folder`, resuming it there, or read it back where it is complete.

    Args:
        described: goes into contribution.json as it is (data set, command, versions).
        split: as of `contribution`.
        replace: whether a contribution with other settings is replaced.

    Raises:
        UsageError: as `contribution`, for a setting that the head does not have, and where the folder holds a run of
            heads, or without `replace` another contribution.
    """
    training.check([head])
    settings = _settings(data, head, training, seeds, split)
    known = folder / "contribution.json"
    other = _read_json(known) if known.exists() else {}
    if all(other.get(name) == settings[name] for name in ("format_version", "key")):
        return ContributionRun(folder, other, *_tables(folder))
    if RunFolder(folder).exists:
        raise UsageError(f"{folder} holds a run of avfuse fuse: give this one another name (NAME=..., --name)")
    if other and not replace:
        raise UsageError(
            f"{folder} holds a contribution with other settings ({_differences(other, settings)}): give this one "
            "another name (NAME=..., --name), or replace it (--replace)"
        )
    unfinished = folder / ".training"
    result = contribution(data, head, training, seeds, split=split, keep=unfinished, progress=progress)
    metadata = {**described, **_data_facts(data), **settings}
    _write(folder, result, metadata)
    shutil.rmtree(unfinished, ignore_errors=True)
    return ContributionRun(folder, metadata, *_tables(folder))


def _settings(
    data: FusionData, head: str, training: TrainingOverrides, seeds: int, split: Sequence[str]
) -> dict[str, Any]:
    """Settings that the numbers depend on, and their hash under `key`."""
    return {
        "format_version": FORMAT_VERSION,
        "key": contribution_key(data, head, training, seeds, split),
        "data": data.fingerprint,
        "head": head,
        "revision": get_head(head).revision,
        "recipe": training.recipe(head).model_dump(),
        "options": training.options(head).model_dump(),
        "training": training.as_dict(),
        "seeds": seeds,
        "split": sorted(split),
    }


def _data_facts(data: FusionData) -> dict[str, Any]:
    facts = describe_data(data)
    clips = {name: facts["clips"][name] for name in ("train", "validation", "test", "excluded")}
    return {**facts, "clips": clips}


def _write(folder: Path, result: Contribution, metadata: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "contribution.json"
    known.unlink(missing_ok=True)
    result.players.to_csv(folder / "contribution.csv", index=False)
    result.coalitions.to_csv(folder / "coalitions.csv", index=False)
    clips = {player: result.clips[player].add_prefix("seed ") for player in result.players["player"]}
    pd.concat(clips, names=["player"]).to_csv(folder / "clips.csv")
    write_json(known, metadata)


def _tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Players and coalitions."""
    try:
        players = pd.read_csv(folder / "contribution.csv")
        coalitions = pd.read_csv(folder / "coalitions.csv").fillna({"players": ""})
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"{folder} has lost its tables ({error}): remove contribution.json to train again") from error
    return players, coalitions


def _differences(other: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    theirs, ours = _user_settings(other), _user_settings(settings)
    parts = ["other clips or features"] if other.get("data") != settings["data"] else []
    return "; ".join([*parts, *list_differences(theirs, ours)]) or "made by another version of avfuse"


def _user_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a user chooses, by name."""
    return {
        **{name: settings.get(name) for name in ("head", "revision", "seeds")},
        "split": "+".join(settings.get("split", ())) or "none",
        **settings.get("options", {}),
        **settings.get("recipe", {}),
        "shuffle_labels": settings.get("training", {}).get("shuffle_labels"),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is damaged ({error}): remove it to train again") from error
