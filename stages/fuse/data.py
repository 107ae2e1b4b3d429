"""Cached features, labels and masks of a data set, as tensors on one device."""

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
from manifests import Manifest
from manifests.splits import held_out

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
    order of the tensors; `excluded` says, by clip id, why the others are not."""

    modalities: Mapping[str, Modality]
    targets: Tensor  # int64 (n,)
    classes: tuple[str, ...]
    table: pd.DataFrame
    train: Tensor  # int64 indices, without validation
    validation: Tensor
    test: Tensor
    excluded: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what a trained head depends on: features by key and by value, clips with labels, splits, masks."""
        state = xxhash.xxh3_128()
        for name, modality in sorted(self.modalities.items()):
            state.update(f"{name}:{','.join(spec.key for spec in modality.specs)};".encode())
            state.update(modality.tokens.cpu().numpy().tobytes())
            state.update(modality.present.cpu().numpy().tobytes())
        state.update(self.table[["clip_id", "label", "split", "group"]].to_csv(index=False).encode())
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
    classes = tuple(sorted(table["label"].unique()))
    train, validation, test = (torch.from_numpy(part).to(device) for part in _splits(table, manifest.name))
    numbers = {name: number for number, name in enumerate(classes)}
    targets = torch.tensor([numbers[label] for label in table["label"]])
    return FusionData(modalities, targets.to(device), classes, table, train, validation, test, excluded)


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
    """Clips with a label and at least one modality. A modality counts where all its features are there."""
    any_present = np.zeros(len(manifest), dtype=bool)
    for parts in loaded.values():
        any_present |= np.logical_and.reduce([part.present for part in parts])
    labelled = manifest.table["label"].notna().to_numpy()
    excluded = {}
    for index in np.flatnonzero(~(any_present & labelled)):
        clip_id = manifest.table["clip_id"].iloc[index]
        reasons = {part.missing.get(clip_id, "") for parts in loaded.values() for part in parts} - {""}
        excluded[clip_id] = "; ".join(sorted(reasons)) if labelled[index] else "no label"
    return any_present & labelled, excluded


def _modality(parts: Sequence[Loaded], kept: np.ndarray, device: str) -> Modality:
    present = np.logical_and.reduce([part.present for part in parts])[kept]
    tokens = [part.data[kept].reshape(len(present), -1, part.spec.shape[-1]) for part in parts]
    stacked = torch.from_numpy(np.concatenate(tokens, axis=1).astype(np.float32))
    stacked[torch.from_numpy(~present)] = float("nan")
    return Modality(stacked.to(device), torch.from_numpy(present).to(device), tuple(part.spec for part in parts))


def _splits(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    split = table["split"].to_numpy()
    train, validation, test = (np.flatnonzero(split == part) for part in ("train", "val", "test"))
    if len(test) == 0 or len(train) == 0:
        raise UsageError(f"data set '{name}' has {len(train)} usable train and {len(test)} test clips: both are needed")
    if len(validation) == 0:
        marked = held_out(table["label"].iloc[train], table["group"].iloc[train], VALIDATION_FRACTION, _VALIDATION_SEED)
        train, validation = train[~marked], train[marked]
    if len(train) == 0 or len(validation) == 0:
        raise UsageError(f"data set '{name}' has too few groups to set a validation part of its train clips aside")
    return train, validation, test
