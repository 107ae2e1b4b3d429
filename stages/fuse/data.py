"""Cached features, what is true of each clip, and masks of a data set, as tensors on one device."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
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
from features.spec import VIEWS, FeatureSpec, View
from manifests import Manifest, Target
from manifests.manifest import classes_of
from manifests.splits import held_out
from stages.fuse.heads.inputs import ModalityShape
from stages.fuse.targets import LearnedTarget, Targets

FILTER_BANK = "audio:fbank"
UNLABELLED = "unlabelled"
VALIDATION_FRACTION = 0.2
_VALIDATION_SEED = 0


@dataclass(frozen=True)
class Modality:
    """One modality of every clip: tokens (n, T, D), NaN where `present` (n,) is False. T is time for video, and one
    token per audio image for audio.

    Of cached views (flips, temporal windows) training may draw: `views` (n, V, T, D), of which tokens are the first,
    and those `at_test` are averaged. `parts` is how many of the tokens each feature gives, in order.
    """

    tokens: Tensor
    present: Tensor
    specs: tuple[FeatureSpec, ...]
    views: Tensor | None = None
    at_test: tuple[int, ...] = (0,)
    parts: tuple[int, ...] = ()

    @property
    def shape(self) -> ModalityShape:
        """Of a clip, with its grid where all tokens are one grid's."""
        length, dim = self.tokens.shape[1:]
        plain = [spec for spec in self.specs if spec.view == "id"]
        if len(self.parts or plain) != 1:
            return ModalityShape(length, dim)
        (spec, *_) = plain
        if spec.output == "filter_bank":
            return ModalityShape(length, dim, raw=True)
        if spec.output != "tokens" or spec.grid is None or len(spec.shape) != 2:
            return ModalityShape(length, dim)
        return ModalityShape(length, dim, spec.shape[0] - math.prod(spec.grid), spec.grid)

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

    @property
    def shapes(self) -> dict[str, ModalityShape]:
        """What heads are built for."""
        return {name: modality.shape for name, modality in self.modalities.items()}

    def only(self, features: Mapping[str, Sequence[str]]) -> "FusionData":
        """The same clips with fewer features of the modalities named, under the names that they were loaded by: what
        compares features is trained and tested on the same clips. Raises UsageError for a feature that is not here."""
        chosen = {name: _only(self.modalities[name], its) for name, its in features.items()}
        return replace(self, modalities={**self.modalities, **chosen})

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what a trained head depends on: features by key and by value, clips with what is to be
        told of them, splits, masks."""
        state = xxhash.xxh3_128()
        for name, modality in sorted(self.modalities.items()):
            state.update(f"{name}:{','.join(spec.key for spec in modality.specs)};".encode())
            values = modality.tokens if modality.views is None else modality.views
            state.update(values.cpu().numpy().tobytes())
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
            features of one modality become its tokens, in this order. Views and temporal windows of one feature, such
            as lite:mfcc and lite:mfcc:h, are the same tokens, of which training draws.

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
            if takes_no_backbone(feature) and feature.partition("@")[0] != FILTER_BANK:
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
    modalities = {name: _modality(name, parts, kept, device) for name, parts in loaded.items()}
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


def _modality(name: str, loaded: Sequence[Loaded], kept: np.ndarray, device: str) -> Modality:
    present = np.logical_and.reduce([part.present for part in loaded])[kept]
    tokens = [_tokens(part, kept) for part in loaded]
    if len({each.shape[2] for each in tokens}) > 1:
        dims = ", ".join(f"{part.spec.name} {each.shape[2]}" for part, each in zip(loaded, tokens, strict=True))
        raise UsageError(f"{name} features have different dimensions ({dims}): name features of one backbone")
    grouped = _by_base(loaded, tokens)
    alternatives = _alternatives(name, grouped)
    stacked = [
        torch.from_numpy(np.concatenate([views[which] for views in grouped.values()], axis=1)) for which in alternatives
    ]
    views = torch.stack(stacked, dim=1)
    views[torch.from_numpy(~present)] = float("nan")
    views = views.to(device)
    return Modality(
        views[:, 0],
        torch.from_numpy(present).to(device),
        tuple(part.spec for part in loaded),
        views if len(alternatives) > 1 else None,
        tuple(number for number, (_, view) in enumerate(alternatives) if view == "id"),
        tuple(next(iter(views.values())).shape[1] for views in grouped.values()),
    )


def _tokens(part: Loaded, kept: np.ndarray) -> np.ndarray:
    """float32 (n, T, D)."""
    return part.data[kept].reshape(int(kept.sum()), -1, part.spec.shape[-1]).astype(np.float32)


_WINDOW = re.compile(r":(\d+)of(\d+)")
_Alternative = tuple[int, View]


def _base(spec: FeatureSpec) -> tuple[str, _Alternative]:
    """A feature's name without window and view, and these: the window's number, 0 where there is none."""
    window = _WINDOW.search(spec.name)
    plain = _WINDOW.sub("", spec.name)
    if spec.view != "id":
        plain = plain.removesuffix(f":{spec.view}")
    return plain, (int(window[1]) if window else 0, spec.view)


def _by_base(loaded: Sequence[Loaded], tokens: Sequence[np.ndarray]) -> dict[str, dict[_Alternative, np.ndarray]]:
    """Tokens by feature, and for each by window and view."""
    grouped: dict[str, dict[_Alternative, np.ndarray]] = {}
    for part, each in zip(loaded, tokens, strict=True):
        base, alternative = _base(part.spec)
        grouped.setdefault(base, {})[alternative] = each
    return grouped


def _alternatives(name: str, grouped: Mapping[str, Mapping[_Alternative, np.ndarray]]) -> list[_Alternative]:
    """Windows and views in order, those that are not turned first. Raises UsageError unless all features have the
    same."""
    (first, expected), *others = ((base, set(views)) for base, views in grouped.items())
    for base, views in others:
        if views != expected:
            raise UsageError(
                f"{name} features have different views: {_listed(expected)} of {first}, {_listed(views)} of {base}; "
                "name the same of each"
            )
    for window, _ in expected:
        if (window, "id") not in expected:
            raise UsageError(
                f"{name} feature {first} is named in views ({_listed(expected)}) without the picture as it is, which "
                "tests need: name that too"
            )
    return sorted(expected, key=lambda each: (each[0], VIEWS.index(each[1])))


def _listed(alternatives: Iterable[_Alternative]) -> str:
    return ", ".join(f"{f'window {window} ' if window else ''}{view}" for window, view in sorted(alternatives))


def _only(modality: Modality, features: Sequence[str]) -> Modality:
    bases = list(dict.fromkeys(_base(spec)[0] for spec in modality.specs))
    chosen = []
    for feature in features:
        plain, _, key = feature.partition("@")
        meant = [_base(spec)[0] for spec in modality.specs if spec.name == plain and spec.key.startswith(key)]
        if not meant:
            raise UsageError(f"feature '{feature}' is not among those loaded: {', '.join(bases)}")
        chosen.append(bases.index(meant[0]))
    chosen = list(dict.fromkeys(chosen))
    starts = [0, *accumulate(modality.parts)]
    tokens = torch.cat([torch.arange(starts[one], starts[one + 1]) for one in chosen]).to(modality.tokens.device)
    views = None if modality.views is None else modality.views[:, :, tokens]
    return replace(
        modality,
        tokens=modality.tokens[:, tokens],
        specs=tuple(spec for one in chosen for spec in modality.specs if _base(spec)[0] == bases[one]),
        views=views,
        parts=tuple(modality.parts[one] for one in chosen),
    )


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
