"""A data set as tensors on one device: cached features, targets and splits."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.store import DONE, NOT_EXTRACTED, extract_hint, find_spec, find_specs
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import is_raw_input
from avfuse.features.spec import IMPORTED, FeatureSpec
from avfuse.manifests import Manifest, Target
from avfuse.manifests.manifest import parse_classes
from avfuse.manifests.splits import group_holdout
from avfuse.stages.fuse.data.filter_banks import BYTES_PER_CLIP, FilterBanks
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality, StreamedModality
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets

FILTER_BANK = "audio:fbank"
UNLABELLED = "unlabelled"
VALIDATION_FRACTION = 0.2
_VALIDATION_SEED = 0


@dataclass(frozen=True)
class _LookedUpFeature:
    """Cached rows of a feature of the manifest's clips; nothing is read yet."""

    spec: FeatureSpec
    store: FeatureStore
    present: NDArray[np.bool_]
    """Per clip of the manifest."""
    missing: dict[str, str]
    """Reason why a clip has no row, by clip id."""


@dataclass(frozen=True)
class FusionData:
    """The clips that the heads of one experiment train and are tested on."""

    modalities: Mapping[str, Modality | StreamedModality]
    """Modalities by name, `video` or `audio`."""
    targets: Targets
    truth: tuple[Tensor, ...]
    """One tensor per target, as in `Targets`."""
    table: pd.DataFrame
    """Rows of the manifest that are used, in the order of the tensors."""
    train: Tensor
    """int64 indices of the training clips, without validation."""
    validation: Tensor
    """int64 indices."""
    test: Tensor
    """int64 indices."""
    unlabelled: Tensor
    """int64 indices of clips to predict."""
    excluded: Mapping[str, str]
    """Reason why a row of the manifest is not used, by clip id."""
    unpredicted: tuple[str, ...] = ()
    """Ids of excluded clips that were to be predicted."""
    clips: tuple[Clip, ...] = ()
    """Clips of the table, where a modality is streamed or there are filter banks."""
    banks: FilterBanks | None = None
    """Filter banks of the clips, for masked learning."""

    @classmethod
    def from_arrays(
        cls,
        modalities: Mapping[str, Modality | NDArray[np.floating]],
        truth: NDArray[np.integer],
        classes: Sequence[str],
        splits: NDArray[np.str_],
        groups: Iterable[object] | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Clips of one class each whose features are in memory.

        Args:
            modalities: by name, tokens float (n, T, D), all NaN where a clip lacks the modality, or a `Modality`.
            truth: class numbers (n,).
            classes: names of the classes.
            splits: (n,), `train`, `val`, `test` or `unlabelled`.
            groups: names (n,) of the groups that clips belong to; by default each clip is its own.
            device: of all tensors.
        """
        names = [f"clip{number}" for number in range(len(truth))]
        labels = [classes[number] for number in truth.tolist()]
        own_groups = names if groups is None else list(map(str, groups))
        table = pd.DataFrame({"clip_id": names, "label": labels, "split": splits, "group": own_groups})
        train, validation, test, unlabelled = (torch.from_numpy(part).to(device) for part in _split_indices(splits))
        return cls(
            {
                name: (values if isinstance(values, Modality) else Modality.from_tokens(values)).to(device)
                for name, values in modalities.items()
            },
            Targets((LearnedTarget("label", tuple(classes)),)),
            (torch.from_numpy(truth.astype(np.int64)).to(device),),
            table,
            train,
            validation,
            test,
            unlabelled,
            excluded={},
        )

    @property
    def streamed(self) -> dict[str, StreamedModality]:
        """The modalities that are not in memory."""
        return {name: own for name, own in self.modalities.items() if isinstance(own, StreamedModality)}

    @property
    def shapes(self) -> dict[str, ModalityShape]:
        """Shapes of the modalities."""
        return {name: modality.shape for name, modality in self.modalities.items()}

    def only(self, features: Mapping[str, Sequence[str]]) -> "FusionData":
        """The same clips with fewer features of the named modalities, so that features are compared on the same clips.

        features: by modality, under the names that they were loaded by. Raises UsageError for one that is not loaded.
        """
        selected = {name: self.modalities[name].only(names) for name, names in features.items()}
        return replace(self, modalities={**self.modalities, **selected})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what a trained head depends on: feature keys and values, clips with their classes, splits, masks."""
        return self.fingerprint_of(tuple(self.modalities))

    def fingerprint_of(self, names: Collection[str]) -> str:
        """Fingerprint for a head that uses only these modalities."""
        modalities = [f"{name}:{self._digests[name]};" for name in sorted(names)]
        return xxhash.xxh3_128_hexdigest("".join([*modalities, self._digest_of_clips]).encode())[:16]

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Hash of each modality's features and masks."""
        digests = {}
        for name, modality in self.modalities.items():
            state = xxhash.xxh3_128(",".join(spec.key for spec in modality.specs).encode())
            if isinstance(modality, Modality):
                values = modality.tokens if modality.views is None else modality.views
                state.update(values.cpu().numpy().tobytes())
            state.update(modality.present.cpu().numpy().tobytes())
            digests[name] = state.hexdigest()
        return digests

    @cached_property
    def _digest_of_clips(self) -> str:
        """Hash of the clips' classes and splits, and of the filter banks."""
        state = xxhash.xxh3_128()
        if self.banks is not None:
            state.update(f"banks:{self.banks.key};".encode())
            state.update(self.banks.present.cpu().numpy().tobytes())
        state.update(json.dumps(self.targets.to_dicts()).encode())
        columns = ["clip_id", *(target.name for target in self.targets), "split", "group"]
        state.update(self.table[columns].to_csv(index=False).encode())
        state.update(self.validation.cpu().numpy().tobytes())
        return state.hexdigest()


def load_data(
    manifest: Manifest,
    cache: Path,
    inputs: Mapping[str, Sequence[str]],
    device: str = "cpu",
    memory_bytes: int | None = None,
    *,
    banks: bool = False,
) -> FusionData:
    """Load the named features of a data set.

    Args:
        manifest: clips with their classes and splits.
        cache: folder of the feature cache.
        inputs: feature names by modality, for example {"video": ["lite:frames"], "audio": ["lite:mfcc", ...]}. Pooled
            features of one modality become its tokens, in this order. Views and temporal windows of one feature, such
            as lite:mfcc and lite:mfcc:h, are alternatives of the same tokens, of which training draws.
        device: of all tensors.
        memory_bytes: modalities that do not fit are streamed from their shards, the largest first; None for no limit.
        banks: whether to load the clips' filter banks, which masked learning needs; always into memory.

    Raises:
        UsageError: a feature is not cached, or the data set has no labels, classes or test clips.
    """
    if not manifest.targets:
        raise UsageError(
            f"data set '{manifest.name}' has no labels: name their column, LABEL_COLUMN=... (--label-column)"
        )
    for name, features in inputs.items():
        if not features:
            raise UsageError(f"no {name} feature is named: give one, for example {name.upper()}=lite:images")
        for feature in features:
            if is_raw_input(feature) and feature.partition("@")[0] != FILTER_BANK:
                raise UsageError(
                    f"feature '{feature}' is a backbone's input: heads take its output, such as lite:chromagram"
                )
    _require_cached(manifest, cache, inputs)
    # Look up the rows of every feature, and keep the clips that have enough of them.
    query = ClipQuery(manifest.clips())
    cached = _look_up(manifest, query, cache, inputs)
    bank = [_look_up_feature(manifest, query, cache, FILTER_BANK)] if banks else []
    _check_same_clips(manifest, [*(feature for features in cached.values() for feature in features), *bank])
    kept, excluded = _usable(manifest, cached)
    table = manifest.table[kept].reset_index(drop=True)
    clips = tuple(clip for clip, is_kept in zip(query.clips, kept, strict=True) if is_kept)
    # Read what fits into memory.
    layouts = {name: FeatureLayout.of(name, [own.spec for own in features]) for name, features in cached.items()}
    if memory_bytes is not None:
        memory_bytes -= len(bank) * len(clips) * BYTES_PER_CLIP
    in_memory = _kept_in_memory(layouts, len(table), memory_bytes)
    modalities = {
        name: _modality(name, features, query, kept, device, name in in_memory) for name, features in cached.items()
    }
    # Splits and classes.
    train, validation, test, unlabelled = _splits(table, manifest)
    truth = [_truth(table, target) for target in manifest.targets]
    fitted = np.concatenate([train, validation])
    targets = Targets(tuple(_learned(target, own[fitted]) for target, own in zip(manifest.targets, truth, strict=True)))
    return FusionData(
        modalities,
        targets,
        tuple(torch.from_numpy(own).to(device) for own in truth),
        table,
        torch.from_numpy(train).to(device),
        torch.from_numpy(validation).to(device),
        torch.from_numpy(test).to(device),
        torch.from_numpy(unlabelled).to(device),
        excluded,
        tuple(manifest.table["clip_id"][~kept & (manifest.table["split"] == UNLABELLED)]),
        clips,
        FilterBanks.load(bank[0].store, clips, device) if bank else None,
    )


def bytes_in_memory(manifest: Manifest, cache: Path, inputs: Mapping[str, Sequence[str]]) -> int:
    """Memory that `load_data` takes where it streams nothing. Raises UsageError for a feature that is not cached."""
    specs = {
        name: [find_spec(cache, manifest.collection, feature) for feature in features]
        for name, features in inputs.items()
    }
    return sum(2 * FeatureLayout.of(name, own).bytes_per_clip * len(manifest) for name, own in specs.items())


def usable_clips(manifest: Manifest, cache: Path, inputs: Mapping[str, Sequence[str]]) -> set[str]:
    """Ids of the clips that `load_data` would keep; reads no features. Raises UsageError as it does."""
    cached = _look_up(manifest, ClipQuery(manifest.clips()), cache, inputs)
    _check_same_clips(manifest, [feature for features in cached.values() for feature in features])
    kept, _ = _usable(manifest, cached)
    return set(manifest.table["clip_id"][kept])


def _require_cached(manifest: Manifest, cache: Path, inputs: Mapping[str, Sequence[str]]) -> None:
    """Raises UsageError that names all missing features, with one command for them, where there are several."""
    there = {spec.name for spec in find_specs(cache, manifest.collection)}
    named = [feature.partition("@")[0] for features in inputs.values() for feature in features]
    missing = [name for name in dict.fromkeys(named) if name not in there and not name.startswith(f"{IMPORTED}:")]
    if len(missing) > 1:
        raise UsageError(
            f"features {', '.join(missing)} are not cached for '{manifest.collection}': "
            f"{extract_hint(manifest.name, ','.join(missing))}, or name others with VIDEO= and AUDIO= "
            f"(there: {', '.join(sorted(there)) or 'none'})"
        )


def _look_up(
    manifest: Manifest, query: ClipQuery, cache: Path, inputs: Mapping[str, Sequence[str]]
) -> dict[str, list[_LookedUpFeature]]:
    return {
        name: [_look_up_feature(manifest, query, cache, feature) for feature in features]
        for name, features in inputs.items()
    }


def _look_up_feature(manifest: Manifest, query: ClipQuery, cache: Path, feature: str) -> _LookedUpFeature:
    """Raises UsageError for a feature that none of the clips has."""
    store = FeatureStore(cache, manifest.collection, find_spec(cache, manifest.collection, feature))
    rows = store.lookup(query)
    present = rows.outcome == DONE
    missing = {query.clips[index].clip_id: rows.why_missing(index) for index in np.flatnonzero(~present).tolist()}
    if list(missing.values()).count(NOT_EXTRACTED) == len(manifest):
        raise UsageError(
            f"feature '{feature}' is cached for other clips than those of '{manifest.name}': "
            f"{extract_hint(manifest.name, feature)}"
        )
    return _LookedUpFeature(store.spec, store, present, missing)


def _check_same_clips(manifest: Manifest, features: Sequence[_LookedUpFeature]) -> None:
    """Raises UsageError for clips that some features were never extracted for: they are not clips without sound."""
    unextracted = [
        {clip_id for clip_id, why in feature.missing.items() if why == NOT_EXTRACTED} for feature in features
    ]
    fewest = min(unextracted, key=len)
    for feature, clips in zip(features, unextracted, strict=True):
        if clips - fewest:
            raise UsageError(
                f"feature '{feature.spec.name}' is not extracted for {len(clips - fewest)} clips that others are there "
                f"for: {extract_hint(manifest.name, feature.spec.name)}"
            )


def _usable(
    manifest: Manifest, cached: Mapping[str, list[_LookedUpFeature]]
) -> tuple[NDArray[np.bool_], dict[str, str]]:
    """Clips with at least one modality, all its features cached, and a class of every target unless they are to be
    predicted: bool (n,), and why the others are excluded, by clip id."""
    any_present = np.zeros(len(manifest), dtype=bool)
    for features in cached.values():
        any_present |= np.logical_and.reduce([feature.present for feature in features])
    eligible = _has_all(manifest.table, manifest.targets) | (manifest.table["split"] == UNLABELLED).to_numpy()
    excluded = {}
    for index in np.flatnonzero(~(any_present & eligible)):
        clip_id = manifest.table["clip_id"].iloc[index]
        reasons = {feature.missing.get(clip_id, "") for features in cached.values() for feature in features} - {""}
        excluded[clip_id] = "; ".join(sorted(reasons)) if eligible[index] else "no label"
    return any_present & eligible, excluded


def _has_all(table: pd.DataFrame, targets: Sequence[Target]) -> NDArray[Any]:
    """Whether each clip has a class of every target: bool (n,)."""
    has = [
        table[target.name].map(lambda cell: bool(parse_classes(cell))) if target.several else table[target.name].notna()
        for target in targets
    ]
    return np.logical_and.reduce([of_target.to_numpy(dtype=bool) for of_target in has])


def _truth(table: pd.DataFrame, target: Target) -> NDArray[Any]:
    """Class numbers int64 (n,), or bool (n, classes) for a target of several; -1 or none for unlabelled clips."""
    cells = table[target.name].where(table["split"] != UNLABELLED, None)
    numbers = {name: number for number, name in enumerate(target.classes)}
    if not target.several:
        return cells.map(numbers).fillna(-1).to_numpy(dtype=np.int64, copy=True)  # pandas' own may not be written to
    truth = np.zeros((len(table), len(target.classes)), dtype=bool)
    for row, cell in enumerate(cells):
        truth[row, [numbers[name] for name in parse_classes(cell)]] = True
    return truth


def _learned(target: Target, fitted: NDArray[Any]) -> LearnedTarget:
    """Softmax where every fitted clip has exactly one class, even if test clips have several; else sigmoid."""
    sigmoid = target.several and bool((fitted.sum(axis=1) != 1).any())
    return LearnedTarget(target.name, target.classes, target.several, sigmoid)


def _modality(
    name: str,
    features: Sequence[_LookedUpFeature],
    query: ClipQuery,
    kept: NDArray[np.bool_],
    device: str,
    in_memory: bool,
) -> Modality | StreamedModality:
    """One modality of the kept clips, present where all its features are."""
    layout = FeatureLayout.of(name, [feature.spec for feature in features])
    present = np.logical_and.reduce([feature.present for feature in features])[kept]
    if not in_memory:
        stores = {feature.spec.key: feature.store for feature in features}
        return StreamedModality(torch.from_numpy(present).to(device), layout, stores)
    rows = {}
    for feature in features:
        loaded = feature.store.load(query)
        present &= loaded.present[kept]  # a row may have been removed since the look-up
        rows[feature.spec.key] = loaded.data[kept]
    return Modality.of(layout, rows, present, device)


def _kept_in_memory(layouts: Mapping[str, FeatureLayout], clips: int, memory_bytes: int | None) -> set[str]:
    """The modalities that fit, smallest first. Each takes memory twice: as cached, and standardised for a head."""
    left, kept = math.inf if memory_bytes is None else memory_bytes, set()
    for name, layout in sorted(layouts.items(), key=lambda item: item[1].bytes_per_clip):
        left -= 2 * layout.bytes_per_clip * clips
        if left >= 0:
            kept.add(name)
    return kept


def _splits(table: pd.DataFrame, manifest: Manifest) -> tuple[NDArray[np.intp], ...]:
    """Indices of train, validation, test and unlabelled clips; without a validation split a part of train becomes it.
    Raises UsageError where train, validation or test would be empty."""
    name, split = manifest.name, table["split"].to_numpy()
    train, validation, test, unlabelled = _split_indices(split)
    if len(test) == 0 or len(train) == 0:
        raise UsageError(f"data set '{name}' has {len(train)} usable train and {len(test)} test clips: both are needed")
    if len(validation) == 0:
        rows = table.iloc[train]
        marked = group_holdout(_strata(rows, manifest.targets), rows["group"], VALIDATION_FRACTION, _VALIDATION_SEED)
        train, validation = train[~marked], train[marked]
    if len(train) == 0 or len(validation) == 0:
        raise UsageError(f"data set '{name}' has too few groups to set a validation part of its train clips aside")
    return train, validation, test, unlabelled


def _split_indices(splits: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Indices of train, validation, test and unlabelled clips as the table has them."""
    return [np.flatnonzero(splits == part) for part in ("train", "val", "test", UNLABELLED)]


def _strata(rows: pd.DataFrame, targets: Sequence[Target]) -> pd.Series:
    """Strata of the validation holdout: the labels, or the classes of all targets where a clip has no label."""
    if rows["label"].notna().all():
        return rows["label"]
    return rows[[target.name for target in targets]].agg("\n".join, axis=1)
