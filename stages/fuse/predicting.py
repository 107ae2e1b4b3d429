"""What trained heads say of clips that their run does not know, from features in a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from avfuse.features.cache import AskedClips, FeatureStore
from avfuse.features.cache.store import FAILED
from avfuse.features.clips import Clip
from avfuse.stages.fuse.fitting import predict
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.modality import Layout, Modality
from avfuse.stages.fuse.predictions import mean_scores, probabilities
from avfuse.stages.fuse.prepared import Inputs
from avfuse.stages.fuse.runs import HeadRun, Run
from avfuse.stages.fuse.saved import layouts_of, options_of, recipe_of, restore

_CLIPS, _BYTES = 1024, 2**28
"""Predicted at a time, at most."""


@dataclass(frozen=True)
class ClassProbabilities:
    """Of n clips, in order. probabilities: a target each, float64 (n, C), NaN for clips that have nothing which the
    heads take. present: the modalities that they take, by name, bool (n,). missing: for each clip, why it lacks a
    modality, by name."""

    probabilities: list[NDArray[np.float64]]
    present: Mapping[str, NDArray[np.bool_]]
    missing: list[dict[str, str]]


def best_row(run: Run) -> tuple[str, float]:
    """The row with the best mean over seeds of the validation score, Targets.selection, and that score; the first of
    equals. The test split has no say."""
    name = f"validation_{run.targets.selection}"
    scores = {row: float(np.mean([one.described["cost"][name] for one in heads])) for row, heads in run.heads.items()}
    return max(scores.items(), key=lambda item: item[1])


def predict_clips(
    run: Run, row: str, clips: Sequence[Clip], cache: Path, collection: str, device: str = "cpu"
) -> ClassProbabilities:
    """The probabilities of a row's classes, its seeds taken together as `load_predictions` takes them.

    cache, collection: where the features of `layouts_of` have been extracted to. What is tested and what is predicted
    goes one way: `Inputs` with a head's own statistics, and `fitting.predict`. Raises UsageError as `restore`.
    """
    heads = run.heads[row]
    layouts = layouts_of(run, heads[0])
    shapes = {name: layout.shape for name, layout in layouts.items()}
    trained = [(one, restore(one, shapes, run.targets, torch.device(device))) for one in heads]
    stores = {spec.key: FeatureStore(cache, collection, spec) for layout in layouts.values() for spec in layout.specs}
    size = max(1, min(_CLIPS, _BYTES // max(layout.bytes_per_clip for layout in layouts.values())))
    parts = [
        _predict(run, trained, layouts, stores, clips[first : first + size], device)
        for first in range(0, len(clips), size)
    ]
    return ClassProbabilities(
        [np.concatenate(each) for each in zip(*(part.probabilities for part in parts), strict=True)],
        {name: np.concatenate([part.present[name] for part in parts]) for name in parts[0].present},
        [missing for part in parts for missing in part.missing],
    )


def _predict(
    run: Run,
    trained: Sequence[tuple[HeadRun, Head]],
    layouts: Mapping[str, Layout],
    stores: Mapping[str, FeatureStore],
    clips: Sequence[Clip],
    device: str,
) -> ClassProbabilities:
    modalities, missing = load_clips(layouts, stores, clips, device)
    left_out = recipe_of(trained[0][0]).without
    present = {name: each.present.cpu().numpy() for name, each in modalities.items() if name != left_out}
    usable = np.logical_or.reduce(list(present.values()))
    found = [np.full((len(clips), len(target.classes)), np.nan) for target in run.targets]
    if usable.any():
        indices = torch.from_numpy(np.flatnonzero(usable)).to(device)
        logits = []
        for one, head in trained:
            inputs = Inputs.of_trained(head, modalities, indices, options_of(one), recipe_of(one))
            logits.append(predict(head, inputs, indices).cpu().numpy())
        for every, target, scores in zip(found, run.targets, mean_scores(run.targets, logits), strict=True):
            every[usable] = probabilities(target, scores)
    return ClassProbabilities(found, present, missing)


def load_clips(
    layouts: Mapping[str, Layout], stores: Mapping[str, FeatureStore], clips: Sequence[Clip], device: str
) -> tuple[dict[str, Modality], list[dict[str, str]]]:
    """Features of some clips alone, by modality, from stores by key; and why a clip lacks a modality, by name."""
    asked = AskedClips(clips)
    missing: list[dict[str, str]] = [{} for _ in clips]
    return {name: _modality(name, layout, stores, asked, missing, device) for name, layout in layouts.items()}, missing


def _modality(
    name: str,
    layout: Layout,
    stores: Mapping[str, FeatureStore],
    asked: AskedClips,
    missing: Sequence[dict[str, str]],
    device: str,
) -> Modality:
    """One modality of clips, there where all its features are. Why it is not is added to `missing`."""
    rows = {}
    present = np.ones(len(asked), dtype=bool)
    for spec in layout.specs:
        loaded, found = stores[spec.key].load(asked), stores[spec.key].find(asked)
        rows[spec.key] = loaded.data
        present &= loaded.present
        for index in np.flatnonzero(~loaded.present).tolist():
            is_failure = found.outcome[index] == FAILED
            why = found.failure(index).message if is_failure else found.why_missing(index)
            missing[index].setdefault(name, why)
    return Modality.of(layout, rows, present, device)
