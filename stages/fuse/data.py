"""Cached features, what is true of each clip, and masks of a data set, as tensors on one device."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xxhash
from torch import Tensor

from features.cache import AskedClips, FeatureStore
from features.cache.store import NOT_EXTRACTED, Loaded, find_spec, way_in
from features.errors import UsageError
from features.requests import takes_no_backbone
from features.spec import FeatureSpec
from manifests import Manifest, Target
from manifests.manifest import classes_of
from manifests.splits import held_out
from stages.fuse.targets import LearnedTarget, Targets

UNLABELLED = "unlabelled"
VALIDATION_FRACTION = 0.2
_VALIDATION_SEED = 0


@dataclass(frozen=True)
class Modality:
    """One modality of every clip: tokens (n, T, D), NaN where `present` (n,) is False. T is time for video, and one
    token per audio image for audio."""

    tokens: Tensor
    present: Tensor
    specs: tuple[FeatureSpec, ...]

    @property
    def dim(self) -> int:
        return self.tokens.shape[-1]

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def untrained(self) -> bool:
        return any(spec.untrained for spec in self.specs)


@dataclass(frozen=True)
class FusionData:
    """All that heads of one experiment train and are tested on. `table` is the manifest's rows that are used, in the
    order of the tensors; `excluded` says, by clip id, why the others are not; those of them that were to be predicted
    are `unpredicted`."""

    modalities: Mapping[str, Modality]
    targets: Targets
    truth: tuple[Tensor, ...]  # one a target, as Targets has it
    table: pd.DataFrame
    train: Tensor  # int64 indices, without validation
    validation: Tensor
    test: Tensor
    unlabelled: Tensor
    excluded: Mapping[str, str]
    unpredicted: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what a trained head depends on: features by key and by value, clips with what is to be
        told of them, splits, masks."""
        state = xxhash.xxh3_128()
        for name, modality in sorted(self.modalities.items()):
            state.update(f"{name}:{','.join(spec.key for spec in modality.specs)};".encode())
            state.update(modality.tokens.cpu().numpy().tobytes())
            state.update(modality.present.cpu().numpy().tobytes())
        state.update(json.dumps(self.targets.described()).encode())
        columns = ["clip_id", *(target.name for target in self.targets), "split", "group"]
        state.update(self.table[columns].to_csv(index=False).encode())
        state.update(self.validation.cpu().numpy().tobytes())
        return state.hexdigest()[:16]


def load_data(manifest: Manifest, cache: Path, inputs: Mapping[str, Sequence[str]], device: str = "cpu") -> FusionData:
    """Load the named features of a data set.

    Args:
        inputs: modality -> feature names, for example {"video": ["lite:frames"], "audio": ["lite:mfcc", ...]}. Pooled
            features of one modality become its tokens, in this order.

    Raises:
        UsageError: a feature is not in the cache, or the data set has no labels, classes or test clips to learn from.
    """
    if not manifest.targets:
        raise UsageError(
            f"data set '{manifest.name}' has no labels: name their column, LABEL_COLUMN=... (--label-column)"
        )
    for name, features in inputs.items():
        if not features:
            raise UsageError(f"no {name} feature is named: give one, for example {name.upper()}=lite:images")
        for feature in features:
            if takes_no_backbone(feature):
                raise UsageError(
                    f"feature '{feature}' is a backbone's input: heads take its output, such as lite:chromagram"
                )
    asked = AskedClips(manifest.clips())
    loaded = {
        name: [_load(manifest, asked, cache, feature) for feature in features] for name, features in inputs.items()
    }
    _check_same_clips(manifest, [part for parts in loaded.values() for part in parts])
    kept, excluded = _usable(manifest, loaded)
    table = manifest.table[kept].reset_index(drop=True)
    modalities = {name: _modality(parts, kept, device) for name, parts in loaded.items()}
    train, validation, test, unlabelled = _splits(table, manifest)
    truth = [_truth(table, target) for target in manifest.targets]
    fitted = np.concatenate([train, validation])
    targets = Targets(
        tuple(_learned(target, each[fitted]) for target, each in zip(manifest.targets, truth, strict=True))
    )
    return FusionData(
        modalities,
        targets,
        tuple(torch.from_numpy(each).to(device) for each in truth),
        table,
        torch.from_numpy(train).to(device),
        torch.from_numpy(validation).to(device),
        torch.from_numpy(test).to(device),
        torch.from_numpy(unlabelled).to(device),
        excluded,
        tuple(manifest.table["clip_id"][~kept & (manifest.table["split"] == UNLABELLED)]),
    )


def _load(manifest: Manifest, asked: AskedClips, cache: Path, feature: str) -> Loaded:
    store = FeatureStore(cache, manifest.collection, find_spec(cache, manifest.collection, feature))
    loaded = store.load(asked)
    not_extracted = [clip_id for clip_id, why in loaded.missing.items() if why == NOT_EXTRACTED]
    if len(not_extracted) == len(manifest):
        raise UsageError(
            f"feature '{feature}' is cached for other clips than those of '{manifest.name}': "
            f"{way_in(manifest.name, feature)}"
        )
    return loaded


def _check_same_clips(manifest: Manifest, parts: Sequence[Loaded]) -> None:
    """A clip that one feature was never extracted for is not a clip without sound. Raises UsageError."""
    lacking = [{clip_id for clip_id, why in part.missing.items() if why == NOT_EXTRACTED} for part in parts]
    fewest = min(lacking, key=len)
    for part, clips in zip(parts, lacking, strict=True):
        if clips - fewest:
            raise UsageError(
                f"feature '{part.spec.name}' is not extracted for {len(clips - fewest)} clips that others are there "
                f"for: {way_in(manifest.name, part.spec.name)}"
            )


def _usable(manifest: Manifest, loaded: Mapping[str, list[Loaded]]) -> tuple[np.ndarray, dict[str, str]]:
    """Clips with a class of every target, or to be predicted, and at least one modality. A modality counts where all
    its features are there."""
    any_present = np.zeros(len(manifest), dtype=bool)
    for parts in loaded.values():
        any_present |= np.logical_and.reduce([part.present for part in parts])
    wanted = _has_all(manifest.table, manifest.targets) | (manifest.table["split"] == UNLABELLED).to_numpy()
    excluded = {}
    for index in np.flatnonzero(~(any_present & wanted)):
        clip_id = manifest.table["clip_id"].iloc[index]
        reasons = {part.missing.get(clip_id, "") for parts in loaded.values() for part in parts} - {""}
        excluded[clip_id] = "; ".join(sorted(reasons)) if wanted[index] else "no label"
    return any_present & wanted, excluded


def _has_all(table: pd.DataFrame, targets: Sequence[Target]) -> np.ndarray:
    """Whether each clip has a class of every target. bool (n,)."""
    has = [
        table[target.name].map(lambda cell: bool(classes_of(cell))) if target.several else table[target.name].notna()
        for target in targets
    ]
    return np.logical_and.reduce([each.to_numpy(dtype=bool) for each in has])


def _truth(table: pd.DataFrame, target: Target) -> np.ndarray:
    """int64 (n,), or bool (n, classes) for a target of several; nothing is known of unlabelled clips."""
    cells = table[target.name].where(table["split"] != UNLABELLED, None)
    numbers = {name: number for number, name in enumerate(target.classes)}
    if not target.several:
        return cells.map(numbers).fillna(-1).to_numpy(dtype=np.int64, copy=True)  # pandas' own may not be written to
    truth = np.zeros((len(table), len(target.classes)), dtype=bool)
    for row, cell in enumerate(cells):
        truth[row, [numbers[name] for name in classes_of(cell)]] = True
    return truth


def _learned(target: Target, fitted: np.ndarray) -> LearnedTarget:
    """With a class of its own for every fitted clip, softmax, also where test clips have several."""
    sigmoid = target.several and bool((fitted.sum(axis=1) != 1).any())
    return LearnedTarget(target.name, target.classes, target.several, sigmoid)


def _modality(parts: Sequence[Loaded], kept: np.ndarray, device: str) -> Modality:
    present = np.logical_and.reduce([part.present for part in parts])[kept]
    tokens = [part.data[kept].reshape(len(present), -1, part.spec.shape[-1]) for part in parts]
    stacked = torch.from_numpy(np.concatenate(tokens, axis=1).astype(np.float32))
    stacked[torch.from_numpy(~present)] = float("nan")
    return Modality(stacked.to(device), torch.from_numpy(present).to(device), tuple(part.spec for part in parts))


def _splits(table: pd.DataFrame, manifest: Manifest) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Indices of train without validation, validation, test and unlabelled clips. Raises UsageError where the first or
    the third would be empty."""
    name, split = manifest.name, table["split"].to_numpy()
    train, validation, test, unlabelled = (
        np.flatnonzero(split == part) for part in ("train", "val", "test", UNLABELLED)
    )
    if len(test) == 0 or len(train) == 0:
        raise UsageError(f"data set '{name}' has {len(train)} usable train and {len(test)} test clips: both are needed")
    if len(validation) == 0:
        rows = table.iloc[train]
        marked = held_out(_strata(rows, manifest.targets), rows["group"], VALIDATION_FRACTION, _VALIDATION_SEED)
        train, validation = train[~marked], train[marked]
    if len(train) == 0 or len(validation) == 0:
        raise UsageError(f"data set '{name}' has too few groups to set a validation part of its train clips aside")
    return train, validation, test, unlabelled


def _strata(rows: pd.DataFrame, targets: Sequence[Target]) -> pd.Series:
    """What validation is to have in proportion: the labels, or where not every clip has one its classes of all
    targets."""
    if rows["label"].notna().all():
        return rows["label"]
    return rows[[target.name for target in targets]].agg("\n".join, axis=1)
