"""Trained heads restored from a run, with the job, recipe and features that they were trained with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.features.feature_names import expand_names
from avfuse.features.spec import FeatureSpec
from avfuse.manifests import Manifest
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.modality import FeatureLayout
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, get_head
from avfuse.stages.fuse.runs.experiment import FEATURES, needs_filter_banks
from avfuse.stages.fuse.runs.run_folder import Run, RunFolder, SeedResult, head_of
from avfuse.stages.fuse.training.auxiliary_losses import AuxiliaryLosses
from avfuse.stages.fuse.training.inputs import rng_devices
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.threads import limit_torch_threads

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"data_of": "load_run_data"})


def job_from_result(result: SeedResult, data: FusionData) -> TrainingJob:
    """The training job of a saved head. data: of its whole run; a row of swept features uses a part. Raises UsageError
    for other clips or features than it was trained on."""
    if data.fingerprint != result.described["data"]:
        raise UsageError(
            f"{result.files.stem} was trained on other clips or features than these: load what its run.json "
            "names under features"
        )
    swept = {name: text for name, text in result.described["swept"].items() if name in FEATURES}
    return TrainingJob(
        result.head,
        data.only({name: _full_names(data.modalities[name].specs, text) for name, text in swept.items()})
        if swept
        else data,
        result.seed,
        saved_recipe(result),
        saved_options(result),
        result.described["training"]["shuffle_labels"],
    )


def saved_recipe(result: SeedResult) -> Recipe:
    """The recipe of a saved head."""
    return Recipe.model_validate(result.described["recipe"])


def saved_options(result: SeedResult) -> Settings:
    """The options of a saved head."""
    return get_head(result.head).Options.model_validate(result.described["options"])


def saved_layouts(run: Run, result: SeedResult) -> dict[str, FeatureLayout]:
    """The features of a saved head, by modality, as run.json describes them. Raises UsageError where a description does
    not match its key."""
    layouts = {}
    for name in get_head(result.head).used_modalities(saved_options(result)):
        specs = [_read_spec(run, facts) for facts in run.described["features"][name]]
        layout = FeatureLayout.of(name, specs)
        if (text := result.described["swept"].get(name)) is not None:
            layout = layout.only(layout.feature_positions(_full_names(specs, text)))
        layouts[name] = layout
    return layouts


def load_head(result: SeedResult, data: FusionData) -> Head:
    """A saved head on the data's device, ready to predict. Raises UsageError as `job_from_result`, and where its
    weights are missing, damaged, or of another version of the head."""
    job = job_from_result(result, data)
    return restore_head(result, job.data.shapes, job.data.targets, data.train.device)


def restore_head(
    result: SeedResult, shapes: Mapping[str, ModalityShape], targets: Targets, device: torch.device
) -> Head:
    """A saved head without its data. shapes: of the modalities that it uses. Raises UsageError as `load_head` for its
    weights."""
    if device.type == "cpu":
        limit_torch_threads()
    with torch.random.fork_rng(devices=rng_devices(device)):
        head = build_head(result.head, shapes, targets, saved_options(result)).to(device)
    file = result.files.weights
    try:
        head.load_state_dict(dict(_weights(file)))
    except RuntimeError as error:
        raise UsageError(f"{file} is of another version of head '{result.head}': train it again (--replace)") from error
    return head.eval()


def load_auxiliary_losses(result: SeedResult, head: Head) -> AuxiliaryLosses:
    """Audio-video contrast of a saved head, on its device, with its joint embedding. head: restored by `load_head`.
    Raises UsageError where it was trained without contrast, and for missing or damaged weights."""
    recipe = saved_recipe(result)
    if not recipe.avc:
        raise UsageError(f"{result.file.parent} was trained without audio-video contrast: train with --set avc=0.5")
    file = result.files.joint_embedding
    if not file.exists():
        raise UsageError(
            f"{file} is not there, as of heads trained by an earlier version: remove {result.file.parent}, and run the "
            "command in run.json again"
        )
    device = next(head.parameters()).device
    with torch.random.fork_rng(devices=rng_devices(device)):
        objective = AuxiliaryLosses(head, Recipe(avc=recipe.avc), None).to(device)
    assert objective.space is not None
    try:
        objective.space.load_state_dict(dict(_weights(file)))
    except RuntimeError as error:
        raise UsageError(f"{file} is not of this head: remove {result.file.parent}, and train it again") from error
    return objective


def _read_spec(run: Run, facts: Mapping[str, Any]) -> FeatureSpec:
    own = {name: value for name, value in facts.items() if name != "key"}
    try:
        spec = FeatureSpec.model_validate(own)
    except ValidationError:
        spec = None
    if spec is None or spec.key != facts["key"]:
        raise UsageError(
            f"{RunFolder(run.folder).metadata_file} does not describe feature '{facts['name']}' as its key "
            f"{facts['key']} has it: it was changed, or is of another version of avfuse; train again (--replace)"
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


def _full_names(specs: Sequence[FeatureSpec], text: str) -> list[str]:
    """Full names of features that a row's name spells with underscores in place of slashes."""
    known = {spec.name.replace("/", "_"): spec.name for spec in specs}
    parts = [feature.partition("@") for feature in expand_names(text.split("+"))]
    return [known.get(plain, plain) + at + key for plain, at, key in parts]


def load_rows(folder: Path, rows: Sequence[str] = ()) -> Run:
    """Load a run with these rows alone, or all of them. Raises UsageError for an unknown row, and where none is trained
    yet."""
    run_folder = RunFolder(folder)
    known = list(run_folder.count_seeds())
    if not known:
        raise UsageError(f"{folder} holds no trained head yet: finish it with avfuse fuse")
    if unknown := [row for row in rows if row not in known]:
        raise UsageError(f"{folder} holds no row '{unknown[0]}': it has {', '.join(known)}")
    if not rows:
        return run_folder.load()
    parts = [run_folder.load(row) for row in dict.fromkeys(rows)]
    return replace(parts[0], heads={row: heads for part in parts for row, heads in part.heads.items()})


def load_audio_video_rows(folder: Path) -> Run:
    """Load the rows of a run whose heads use both modalities. Raises UsageError where there is none."""
    run = load_rows(folder)
    heads = {}
    for row, seeds in run.heads.items():
        kind, metadata = get_head(seeds[0].head), seeds[0].described
        seen = kind.used_modalities(kind.Options.model_validate(metadata["options"]))
        if len(seen) > 1 and metadata["recipe"]["without"] is None:
            heads[row] = seeds
    if not heads:
        raise UsageError(f"no row of {folder} takes both modalities: name rows with --head ({', '.join(run.heads)})")
    return replace(run, heads=heads)


def load_run_data(
    run: Run, manifest: Manifest, cache: Path, device: str = "cpu", memory_bytes: int | None = None
) -> FusionData:
    """Load the features that a run names, by key. memory_bytes: as the run had it, see `load_data`.

    Raises UsageError where a feature is no longer cached, and where clips, splits or features have changed since.
    """
    metadata = run.described
    inputs = {name: [f"{spec['name']}@{spec['key']}" for spec in specs] for name, specs in metadata["features"].items()}
    heads = [head_of(row) for row in metadata["rows"]]
    banks = needs_filter_banks(heads, TrainingOverrides(**metadata["training"]), metadata["sweep"])
    data = load_data(manifest, cache, inputs, device, memory_bytes, banks=banks)
    if data.fingerprint != metadata["data"]:
        raise UsageError(
            f"the clips of '{manifest.name}' or their features have changed since {run.folder} was trained: train it "
            "again (avfuse fuse ... --replace); of a run that streamed features, name its --memory"
        )
    return data


def match_test_clips(a: Run, b: Run) -> NDArray[np.int64]:
    """The position of each test clip of A among those of B, int64 (n_test,). Raises UsageError unless they are the same
    clips with the same classes."""
    (first, *_), (second, *_) = next(iter(a.heads.values())), next(iter(b.heads.values()))
    if a.described["collection"] != b.described["collection"]:
        raise UsageError(
            f"{a.folder} is of data set '{a.described['dataset']}', {b.folder} of '{b.described['dataset']}': compare "
            "runs of one data set"
        )
    if set(first.clip_ids) != set(second.clip_ids):
        shared = len(set(first.clip_ids) & set(second.clip_ids))
        raise UsageError(
            f"{a.folder} and {b.folder} are not tested on the same clips: of {len(first.clip_ids)} and "
            f"{len(second.clip_ids)} they share {shared}; train both on one split and on features of the same clips"
        )
    place = {clip_id: number for number, clip_id in enumerate(second.clip_ids)}
    order = np.array([place[clip_id] for clip_id in first.clip_ids], dtype=np.int64)
    known = [[(target.name, target.classes, target.several) for target in run.targets] for run in (a, b)]
    if known[0] != known[1] or not all(map(np.array_equal, first.truth, (truth[order] for truth in second.truth))):
        raise UsageError(
            f"{a.folder} and {b.folder} do not tell the same classes of their test clips: train both on one manifest"
        )
    return order
