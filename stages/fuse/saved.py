"""Trained heads read back from a run, to be used again."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from features.errors import UsageError
from features.requests import expand_names
from stages.fuse.data import FusionData
from stages.fuse.experiment import FEATURES
from stages.fuse.heads import Head, build_head, get_head
from stages.fuse.plan import Plan
from stages.fuse.prepared import forked
from stages.fuse.recipe import Recipe
from stages.fuse.runs import HeadRun


def plan_of(one: HeadRun, data: FusionData) -> Plan:
    """What a saved head was trained by. data: what its run was trained on, of which a row of swept features sees a
    part. Raises UsageError for other clips or features than those."""
    if data.fingerprint != one.described["data"]:
        raise UsageError(
            f"{one.file.with_suffix('')} was trained on other clips or features than these: load what its run.json "
            "names under features"
        )
    swept = {name: text for name, text in one.described["swept"].items() if name in FEATURES}
    return Plan(
        one.head,
        data.only({name: _names(data, name, text) for name, text in swept.items()}) if swept else data,
        one.seed,
        Recipe.model_validate(one.described["recipe"]),
        get_head(one.head).Options.model_validate(one.described["options"]),
        one.described["training"]["shuffle_labels"],
    )


def load_head(one: HeadRun, data: FusionData) -> Head:
    """A saved head on the data's device, ready to predict. Raises UsageError as `plan_of` does, and where its weights
    are gone, damaged, or of another version of the head."""
    plan = plan_of(one, data)
    device = data.train.device
    with torch.random.fork_rng(devices=forked(device)):
        head = build_head(plan.head, plan.data.shapes, plan.data.targets, plan.options).to(device)
    file = one.file.with_suffix(".safetensors")
    try:
        head.load_state_dict(dict(_weights(file)))
    except RuntimeError as error:
        raise UsageError(f"{file} is of another version of head '{one.head}': train it again (--replace)") from error
    return head.eval()


def _weights(file: Path) -> Mapping[str, Tensor]:
    try:
        weights: Mapping[str, Tensor] = load_file(file)
    except FileNotFoundError as error:
        raise UsageError(f"{file} is not there: train the head again (--replace)") from error
    except SafetensorError as error:
        raise UsageError(f"{file} is damaged ({error}): train the head again (--replace)") from error
    return weights


def _names(data: FusionData, modality: str, text: str) -> list[str]:
    """Features as a row is called after them, where slashes are written as underscores."""
    known = {spec.name.replace("/", "_"): spec.name for spec in data.modalities[modality].specs}
    found = []
    for feature in expand_names(text.split("+")):
        plain, at, key = feature.partition("@")
        found.append(known.get(plain, plain) + at + key)
    return found
