"""Cached features, what is true of each clip, and masks of a data set, as tensors on one device."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

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
class _Known:
    """What the cache has of one feature, before it is read. present: bool, a clip of the manifest each."""

    spec: FeatureSpec
    store: FeatureStore
    present: np.ndarray
    missing: dict[str, str]


@dataclass(frozen=True)
class FusionData:
    """All that heads of one experiment train and are tested on. `table` is the manifest's rows that are used, in the
    order of the tensors; `excluded` says, by clip id, why the others are not; those of them that were to be predicted
    are `unpredicted`."""

    modalities: Mapping[str, Modality | StreamedModality]
    targets: Targets
    truth: tuple[Tensor, ...]  # one a target, as Targets has it
    table: pd.DataFrame
    train: Tensor  # int64 indices, without validation
    validation: Tensor
    test: Tensor
    unlabelled: Tensor
    excluded: Mapping[str, str]
    unpredicted: tuple[str, ...] = ()
    clips: tuple[Clip, ...] = ()  # of the table, where a modality is streamed
    banks: FilterBanks | None = None  # of the same clips, for masked learning

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
        indices = (
            torch.from_numpy(np.flatnonzero(splits == part)).to(device) for part in ("train", "val", "test", UNLABELLED)
        )
        return cls(
            {
                name: (values if isinstance(values, Modality) else Modality.from_tokens(values)).to(device)
                for name, values in modalities.items()
            },
            Targets((LearnedTarget("label", tuple(classes)),)),
            (torch.from_numpy(truth.astype(np.int64)).to(device),),
            table,
            *indices,
            excluded={},
        )

    @property
    def streamed(self) -> dict[str, StreamedModality]:
        """The modalities that are not in memory."""
        return {name: each for name, each in self.modalities.items() if isinstance(each, StreamedModality)}

    @property
    def shapes(self) -> dict[str, ModalityShape]:
        """What heads are built for."""
        return {name: modality.shape for name, modality in self.modalities.items()}

    def only(self, features: Mapping[str, Sequence[str]]) -> "FusionData":
        """The same clips with fewer features of the modalities named, under the names that they were loaded by: what
        compares features is trained and tested on the same clips. Raises UsageError for a feature that is not here."""
        chosen = {name: self.modalities[name].only(its) for name, its in features.items()}
        return replace(self, modalities={**self.modalities, **chosen})

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what a trained head depends on: features by key and by value, clips with what is to be
        told of them, splits, masks."""
        return self.fingerprint_of(tuple(self.modalities))

    def fingerprint_of(self, names: Collection[str]) -> str:
        """The same for a head that sees only these modalities."""
        seen = [f"{name}:{self._digests[name]};" for name in sorted(names)]
        return xxhash.xxh3_128_hexdigest("".join([*seen, self._digest_of_clips]).encode())[:16]

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Of each modality's features and masks."""
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
        """Of what is true of them, and of what is hidden of their sound."""
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
        inputs: modality -> feature names, for example {"video": ["lite:frames"], "audio": ["lite:mfcc", ...]}. Pooled
            features of one modality become its tokens, in this order. Views and temporal windows of one feature, such
            as lite:mfcc and lite:mfcc:h, are the same tokens, of which training draws.
        memory_bytes: modalities that do not fit are streamed from their shards, the largest first; None for no limit.
        banks: whether the clips' filter banks are loaded as well, which masked learning needs; always into memory.

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
            if is_raw_input(feature) and feature.partition("@")[0] != FILTER_BANK:
                raise UsageError(
                    f"feature '{feature}' is a backbone's input: heads take its output, such as lite:chromagram"
                )
    _require_cached(manifest, cache, inputs)
    asked = ClipQuery(manifest.clips())
    known = {
        name: [_known(manifest, asked, cache, feature) for feature in features] for name, features in inputs.items()
    }
    hidden = [_known(manifest, asked, cache, FILTER_BANK)] if banks else []
    _check_same_clips(manifest, [*(part for parts in known.values() for part in parts), *hidden])
    kept, excluded = _usable(manifest, known)
    table = manifest.table[kept].reset_index(drop=True)
    layouts = {name: FeatureLayout.of(name, [part.spec for part in parts]) for name, parts in known.items()}
    clips = tuple(clip for clip, is_kept in zip(asked.clips, kept, strict=True) if is_kept)
    if memory_bytes is not None:
        memory_bytes -= len(hidden) * len(clips) * BYTES_PER_CLIP
    in_memory = _kept_in_memory(layouts, len(table), memory_bytes)
    modalities = {name: _modality(name, parts, asked, kept, device, name in in_memory) for name, parts in known.items()}
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
        clips,
        FilterBanks.load(hidden[0].store, clips, device) if hidden else None,
    )


def bytes_in_memory(manifest: Manifest, cache: Path, inputs: Mapping[str, Sequence[str]]) -> int:
    """How much load_data takes where it streams nothing. Raises UsageError for a feature that is not in the cache."""
    specs = {name: [find_spec(cache, manifest.collection, each) for each in named] for name, named in inputs.items()}
    return sum(2 * FeatureLayout.of(name, each).bytes_per_clip * len(manifest) for name, each in specs.items())


def usable_clips(manifest: Manifest, cache: Path, inputs: Mapping[str, Sequence[str]]) -> set[str]:
    """Ids of the clips that load_data would keep, without reading their features. Raises UsageError as it does."""
    asked = ClipQuery(manifest.clips())
    known = {
        name: [_known(manifest, asked, cache, feature) for feature in features] for name, features in inputs.items()
    }
    _check_same_clips(manifest, [part for parts in known.values() for part in parts])
    kept, _ = _usable(manifest, known)
    return set(manifest.table["clip_id"][kept])


def _require_cached(manifest: Manifest, cache: Path, inputs: Mapping[str, Sequence[str]]) -> None:
    """Several that are missing are named together, with one command for all. Raises UsageError."""
    there = {spec.name for spec in find_specs(cache, manifest.collection)}
    named = [feature.partition("@")[0] for features in inputs.values() for feature in features]
    missing = [name for name in dict.fromkeys(named) if name not in there and not name.startswith(f"{IMPORTED}:")]
    if len(missing) > 1:
        raise UsageError(
            f"features {', '.join(missing)} are not cached for '{manifest.collection}': "
            f"{extract_hint(manifest.name, ','.join(missing))}, or name others with VIDEO= and AUDIO= "
            f"(there: {', '.join(sorted(there)) or 'none'})"
        )


def _known(manifest: Manifest, asked: ClipQuery, cache: Path, feature: str) -> _Known:
    store = FeatureStore(cache, manifest.collection, find_spec(cache, manifest.collection, feature))
    found = store.lookup(asked)
    present = found.outcome == DONE
    missing = {asked.clips[index].clip_id: found.why_missing(index) for index in np.flatnonzero(~present).tolist()}
    if list(missing.values()).count(NOT_EXTRACTED) == len(manifest):
        raise UsageError(
            f"feature '{feature}' is cached for other clips than those of '{manifest.name}': "
            f"{extract_hint(manifest.name, feature)}"
        )
    return _Known(store.spec, store, present, missing)


def _check_same_clips(manifest: Manifest, parts: Sequence[_Known]) -> None:
    """A clip that one feature was never extracted for is not a clip without sound. Raises UsageError."""
    lacking = [{clip_id for clip_id, why in part.missing.items() if why == NOT_EXTRACTED} for part in parts]
    fewest = min(lacking, key=len)
    for part, clips in zip(parts, lacking, strict=True):
        if clips - fewest:
            raise UsageError(
                f"feature '{part.spec.name}' is not extracted for {len(clips - fewest)} clips that others are there "
                f"for: {extract_hint(manifest.name, part.spec.name)}"
            )


def _usable(manifest: Manifest, known: Mapping[str, list[_Known]]) -> tuple[np.ndarray, dict[str, str]]:
    """Clips with a class of every target, or to be predicted, and at least one modality. A modality counts where all
    its features are there."""
    any_present = np.zeros(len(manifest), dtype=bool)
    for parts in known.values():
        any_present |= np.logical_and.reduce([part.present for part in parts])
    wanted = _has_all(manifest.table, manifest.targets) | (manifest.table["split"] == UNLABELLED).to_numpy()
    excluded = {}
    for index in np.flatnonzero(~(any_present & wanted)):
        clip_id = manifest.table["clip_id"].iloc[index]
        reasons = {part.missing.get(clip_id, "") for parts in known.values() for part in parts} - {""}
        excluded[clip_id] = "; ".join(sorted(reasons)) if wanted[index] else "no label"
    return any_present & wanted, excluded


def _has_all(table: pd.DataFrame, targets: Sequence[Target]) -> np.ndarray:
    """Whether each clip has a class of every target. bool (n,)."""
    has = [
        table[target.name].map(lambda cell: bool(parse_classes(cell))) if target.several else table[target.name].notna()
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
        truth[row, [numbers[name] for name in parse_classes(cell)]] = True
    return truth


def _learned(target: Target, fitted: np.ndarray) -> LearnedTarget:
    """With a class of its own for every fitted clip, softmax, also where test clips have several."""
    sigmoid = target.several and bool((fitted.sum(axis=1) != 1).any())
    return LearnedTarget(target.name, target.classes, target.several, sigmoid)


def _modality(
    name: str, known: Sequence[_Known], asked: ClipQuery, kept: np.ndarray, device: str, in_memory: bool
) -> Modality | StreamedModality:
    layout = FeatureLayout.of(name, [each.spec for each in known])
    present = np.logical_and.reduce([each.present for each in known])[kept]
    if not in_memory:
        return StreamedModality(
            torch.from_numpy(present).to(device), layout, {each.spec.key: each.store for each in known}
        )
    rows = {}
    for each in known:
        loaded = each.store.load(asked)
        present &= loaded.present[kept]  # a row may have gone since it was looked for
        rows[each.spec.key] = loaded.data[kept]
    return Modality.of(layout, rows, present, device)


def _kept_in_memory(layouts: Mapping[str, FeatureLayout], clips: int, memory_bytes: int | None) -> set[str]:
    """The modalities that fit, smallest first. Each is there twice: as it is cached, and as a head takes it."""
    left, kept = math.inf if memory_bytes is None else memory_bytes, set()
    for name, layout in sorted(layouts.items(), key=lambda item: item[1].bytes_per_clip):
        left -= 2 * layout.bytes_per_clip * clips
        if left >= 0:
            kept.add(name)
    return kept


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
        marked = group_holdout(_strata(rows, manifest.targets), rows["group"], VALIDATION_FRACTION, _VALIDATION_SEED)
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
