"""Trained heads read back from a run, to be used again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.features.requests import expand_names
from avfuse.features.spec import FeatureSpec
from avfuse.stages.fuse.data import FusionData
from avfuse.stages.fuse.experiment import FEATURES
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, get_head
from avfuse.stages.fuse.modality import Layout
from avfuse.stages.fuse.objective import Objective
from avfuse.stages.fuse.plan import Plan
from avfuse.stages.fuse.prepared import forked
from avfuse.stages.fuse.recipe import Recipe, Settings
from avfuse.stages.fuse.runs import HeadRun, Run
from avfuse.stages.fuse.targets import Targets
from avfuse.threads import limit_torch_threads


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
        data.only({name: _names(data.modalities[name].specs, text) for name, text in swept.items()}) if swept else data,
        one.seed,
        recipe_of(one),
        options_of(one),
        one.described["training"]["shuffle_labels"],
    )


def recipe_of(one: HeadRun) -> Recipe:
    """How a saved head was trained."""
    return Recipe.model_validate(one.described["recipe"])


def options_of(one: HeadRun) -> Settings:
    """A saved head's own options."""
    return get_head(one.head).Options.model_validate(one.described["options"])


def layouts_of(run: Run, one: HeadRun) -> dict[str, Layout]:
    """The features that a saved head sees, by modality, as run.json describes them. Raises UsageError where that is not
    what it was, by its key."""
    layouts = {}
    for name in get_head(one.head).sees(options_of(one)):
        specs = [_described(run, each) for each in run.described["features"][name]]
        layout = Layout.of(name, specs)
        if (text := one.described["swept"].get(name)) is not None:
            layout = layout.only(layout.chosen(_names(specs, text)))
        layouts[name] = layout
    return layouts


def load_head(one: HeadRun, data: FusionData) -> Head:
    """A saved head on the data's device, ready to predict. Raises UsageError as `plan_of` does, and where its weights
    are gone, damaged, or of another version of the head."""
    plan = plan_of(one, data)
    return restore(one, plan.data.shapes, plan.data.targets, data.train.device)


def restore(one: HeadRun, shapes: Mapping[str, ModalityShape], targets: Targets, device: torch.device) -> Head:
    """A saved head without its data. shapes: of the modalities that it sees. Raises UsageError as `load_head` does
    over its weights."""
    if device.type == "cpu":
        limit_torch_threads()
    with torch.random.fork_rng(devices=forked(device)):
        head = build_head(one.head, shapes, targets, options_of(one)).to(device)
    file = one.file.with_suffix(".safetensors")
    try:
        head.load_state_dict(dict(_weights(file)))
    except RuntimeError as error:
        raise UsageError(f"{file} is of another version of head '{one.head}': train it again (--replace)") from error
    return head.eval()


def load_objective(one: HeadRun, head: Head) -> Objective:
    """Audio-video contrast of a saved head, on its device, with the common space that it was trained in. head: what
    `load_head` gives of it. Raises UsageError where it was trained without, and where the space is gone or damaged."""
    recipe = recipe_of(one)
    if not recipe.avc:
        raise UsageError(f"{one.file.parent} was trained without audio-video contrast: train with --set avc=0.5")
    file = one.file.with_suffix(".space.safetensors")
    if not file.exists():
        raise UsageError(
            f"{file} is not there, as of heads trained by an earlier version: remove {one.file.parent}, and run the "
            "command in run.json again"
        )
    device = next(head.parameters()).device
    with torch.random.fork_rng(devices=forked(device)):
        objective = Objective(head, Recipe(avc=recipe.avc), None).to(device)
    assert objective.space is not None
    try:
        objective.space.load_state_dict(dict(_weights(file)))
    except RuntimeError as error:
        raise UsageError(f"{file} is not of this head: remove {one.file.parent}, and train it again") from error
    return objective


def _described(run: Run, described: Mapping[str, Any]) -> FeatureSpec:
    own = {name: value for name, value in described.items() if name != "key"}
    try:
        spec = FeatureSpec.model_validate(own)
    except ValidationError:
        spec = None
    if spec is None or spec.key != described["key"]:
        raise UsageError(
            f"{run.folder / 'run.json'} does not describe feature '{described['name']}' as its key "
            f"{described['key']} has it: it was changed, or is of another version of avfuse; train again (--replace)"
        )
    return spec


def _weights(file: Path) -> Mapping[str, Tensor]:
    try:
        weights: Mapping[str, Tensor] = load_file(file)
    except FileNotFoundError as error:
        raise UsageError(f"{file} is not there: train the head again (--replace)") from error
    except SafetensorError as error:
        raise UsageError(f"{file} is damaged ({error}): train the head again (--replace)") from error
    return weights


def _names(specs: Sequence[FeatureSpec], text: str) -> list[str]:
    """Features as a row is called after them, where slashes are written as underscores."""
    known = {spec.name.replace("/", "_"): spec.name for spec in specs}
    found = []
    for feature in expand_names(text.split("+")):
        plain, at, key = feature.partition("@")
        found.append(known.get(plain, plain) + at + key)
    return found
