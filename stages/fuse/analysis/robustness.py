"""How much of a trained head's accuracy is left when a modality is changed at test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avfuse.stages.fuse.analysis.perturbations import ModalityTokens, Perturbation, perturbations
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.evaluation.metrics import all_correct
from avfuse.stages.fuse.evaluation.statistics import difference_interval
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.training.head_trainer import predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.job import TrainingJob

_CLIPS, _BYTES = 1024, 2**27
"""Changed at a time, at most."""


@dataclass(frozen=True)
class Robustness:
    """Shares of 1, averaged over heads; accuracy is Targets.measure.

    table: a line a change, the first of no change. `modality`, `change`, `strength` (see `robustness`, NaN where there
        is none); `clips` that the line is of, `left_out` for want of a partner, and `changed`, how many of the clips
        have the modality: the others are as they were; `accuracy`, `unchanged`, that of the same clips as they are, and
        `drop`, the difference, with `low` and `high`, its 95 % interval over seeds and groups of test clips.
    clips: a line a test clip by `clip_id`, a column a `line` of `table` and a `head`: 1 where that head gets the clip
        right, else 0, and NaN where it is left out.
    """

    table: pd.DataFrame
    clips: pd.DataFrame


def robustness(job: TrainingJob, heads: Sequence[Head], seed: int = 0) -> Robustness:
    """The accuracy of heads that were trained by one plan, from several seeds, where one modality of the test clips is

    * `dropped`: a mask, as of clips that lack it.
    * `noise`: Gaussian noise is added to standardised tokens, with 10^(-strength / 10) of each dimension's variance on
      the clips that heads were fitted on, which is 1 where a head standardises. strength: the signal-to-noise ratio in
      dB. The noise of every dimension of every token is its own, so that a head that averages tokens averages it out.
    * `shift`: standardised tokens are rolled forward along time, what leaves at the end coming back at the beginning.
      strength: by which share of the length, rounded to whole tokens and at least one. Temporal windows change places
      where there are several, else frames, columns of an audio image's or a filter bank's grid, or the steps of a video
      network's. CLS and its like stay. What has no time axis, such as pooled vectors of audio images, and tokens whose
      layout is not known (`sound`) stay; no line where all do.
    * `same class`, `other class`: replaced by another test clip's that has it, no clip's twice. Of one class are clips
      whose classes of all targets agree. Clips without such a partner are left out and counted.

    A change that no clip can have has no line. Everything goes the way of test clips, through `fitting.predict`: the
    heads' standardisation, masks, windows. Test clips of streamed modalities are read into memory.

    Args:
        plan: of any of the seeds.
        heads: on the data's device.
        seed: of noise and partners.
    """
    data = job.data
    seen = [ModalityTokens.of(job, name, door) for name, door in heads[0].modality_inputs().items()]
    labels = _classes(data)
    everyone = np.ones(len(labels), dtype=bool)
    every = [Perturbation("", "unchanged", math.nan, everyone, ~everyone, None)]
    every += [change for each in seen for change in perturbations(each, labels, seed) if change.changed.any()]
    hits = _hits(job, heads, seen, every)
    test = data.test.cpu().numpy()
    groups = data.table["group"].to_numpy(dtype=object)[test]
    clips = {
        number: pd.DataFrame(np.where(change.kept, each, np.nan).T)
        for number, (change, each) in enumerate(zip(every, hits, strict=True))
    }
    return Robustness(
        pd.DataFrame(_line(change, hits[0], each, groups) for change, each in zip(every, hits, strict=True)),
        pd.concat(clips, axis=1, names=["line", "head"]).set_index(
            pd.Index(data.table["clip_id"].to_numpy()[test], name="clip_id")
        ),
    )


def _line(
    change: Perturbation, before: NDArray[np.bool_], after: NDArray[np.bool_], groups: NDArray[np.object_]
) -> dict[str, object]:
    """Of `Robustness.table`. before, after: (heads, n_test)."""
    before, after = before[:, change.kept], after[:, change.kept]
    drop = difference_interval(before.astype(np.float64) - after, groups[change.kept])
    return {
        "modality": change.modality,
        "change": change.name,
        "strength": change.strength,
        "clips": int(change.kept.sum()),
        "left_out": int((~change.kept).sum()),
        "changed": int(change.changed.sum()),
        "accuracy": after.mean(),
        "unchanged": before.mean(),
        "drop": drop.mean,
        "low": drop.low,
        "high": drop.high,
    }


def _hits(
    job: TrainingJob, heads: Sequence[Head], seen: Sequence[ModalityTokens], every: Sequence[Perturbation]
) -> NDArray[np.bool_]:
    """Whether each head gets each clip right under each change. (changes, heads, n_test)."""
    data = job.data
    truth = [each[data.test].cpu().numpy() for each in data.truth]
    hits = np.zeros((len(every), len(heads), len(data.test)), dtype=bool)
    size = max(1, min(_CLIPS, _BYTES // max(each.bytes_per_clip for each in seen)))
    for part in torch.arange(len(data.test), device=data.test.device).split(size):
        as_is = {each.name: each.stored(each.standardised(part)) for each in seen}
        present = {each.name: each.present[part] for each in seen}
        where = part.cpu().numpy()
        for number, change in enumerate(every):
            stored, without = dict(as_is), None
            if change.alter is not None:
                one = next(each for each in seen if each.name == change.modality)
                stored[one.name] = one.stored(change.alter(part))
            elif change.modality:
                without = change.modality
            inputs = HeadInputs(
                heads[0],
                job.options,
                stored,
                {},
                {each.name: each.views for each in seen},
                {name: None if mask.all() else mask for name, mask in present.items()},
                torch.arange(len(part), device=part.device),
                (),
            )
            for which, head in enumerate(heads):
                logits = predict(head, inputs, inputs.indices, without).cpu().numpy()
                hits[number, which, where] = all_correct(data.targets, logits, [each[where] for each in truth])
    return hits


def _classes(data: FusionData) -> NDArray[np.int64]:
    """A number for each test clip, the same where all classes of all targets are. int64 (n_test,)."""
    columns = [each[data.test].cpu().numpy().reshape(len(data.test), -1) for each in data.truth]
    return np.unique(np.concatenate(columns, axis=1), axis=0, return_inverse=True)[1].ravel()
