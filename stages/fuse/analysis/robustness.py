"""Robustness of trained heads: their accuracy with one modality perturbed at test."""

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
"""Limits of clips perturbed at once."""


@dataclass(frozen=True)
class Robustness:
    """Shares of 1, averaged over heads; accuracy is Targets.measure."""

    table: pd.DataFrame
    """A line per perturbation, the first unperturbed: `modality`, `change`, `strength` (NaN if it has none); the
    numbers of `clips` measured, of those `left_out` without a partner, and of those `changed`, which have the modality;
    `accuracy`, `unchanged`, the accuracy of the same clips unperturbed, and `drop`, the difference, with `low` and
    `high`, its 95 % interval over seeds and groups of test clips."""
    clips: pd.DataFrame
    """A line per test clip by `clip_id`, a column per `line` of `table` and `head`: 1 where that head gets the clip
    right, else 0, and NaN if it is left out."""


def robustness(job: TrainingJob, heads: Sequence[Head], seed: int = 0) -> Robustness:
    """Measure the accuracy of heads trained by one job, from several seeds, with one modality of test clips perturbed.

    * `dropped`: the modality is masked, as for clips that lack it.
    * `noise`: Gaussian noise is added to standardised tokens, with 10^(-strength / 10) of each dimension's variance on
      the clips that heads were fitted on, which is 1 where a head standardises. strength: the signal-to-noise ratio in
      dB. Noise is independent per dimension and token, so a head that averages tokens averages it out.
    * `shift`: standardised tokens are rolled forward along time. strength: the share of the length, rounded to whole
      tokens and at least one. Several temporal windows are rolled as wholes, else frames, columns of an audio image's
      or a filter bank's grid, or the steps of a video network. CLS and similar tokens stay. Features without a time
      axis, such as pooled vectors of audio images, and tokens of unknown layout (`sound`) stay; no line where all do.
    * `same class`, `other class`: replaced by that of another test clip, each used at most once. Clips have the same
      class if the classes of all their targets agree. Clips without such a partner are left out and counted.

    A perturbation that affects no clip has no line. Perturbed clips take the path of test clips, through
    `head_trainer.predict`: the heads' standardisation, masks, windows. Test clips of streamed modalities are read into
    memory.

    Args:
        job: of any of the seeds.
        heads: on the data's device.
        seed: of noise and partners.
    """
    data = job.data
    modalities = [ModalityTokens.of(job, *named_input) for named_input in heads[0].modality_inputs().items()]
    labels = _class_numbers(data)
    all_clips = np.ones(len(labels), dtype=bool)
    lines = [Perturbation("", "unchanged", math.nan, all_clips, ~all_clips, None)]
    for modality in modalities:
        lines += [line for line in perturbations(modality, labels, seed) if line.affected.any()]
    correct = _correct_under(job, heads, modalities, lines)
    test = data.test.cpu().numpy()
    groups = data.table["group"].to_numpy(dtype=object)[test]
    clips = {
        number: pd.DataFrame(np.where(line.measured, of_line, np.nan).T)
        for number, (line, of_line) in enumerate(zip(lines, correct, strict=True))
    }
    return Robustness(
        pd.DataFrame(
            _table_line(line, correct[0], of_line, groups) for line, of_line in zip(lines, correct, strict=True)
        ),
        pd.concat(clips, axis=1, names=["line", "head"]).set_index(
            pd.Index(data.table["clip_id"].to_numpy()[test], name="clip_id")
        ),
    )


def _table_line(
    perturbation: Perturbation, before: NDArray[np.bool_], after: NDArray[np.bool_], groups: NDArray[np.object_]
) -> dict[str, object]:
    """Of `Robustness.table`. before, after: (heads, n_test)."""
    measured = perturbation.measured
    before, after = before[:, measured], after[:, measured]
    drop = difference_interval(before.astype(np.float64) - after, groups[measured])
    return {
        "modality": perturbation.modality,
        "change": perturbation.name,
        "strength": perturbation.strength,
        "clips": int(measured.sum()),
        "left_out": int((~measured).sum()),
        "changed": int(perturbation.affected.sum()),
        "accuracy": after.mean(),
        "unchanged": before.mean(),
        "drop": drop.mean,
        "low": drop.low,
        "high": drop.high,
    }


def _correct_under(
    job: TrainingJob,
    heads: Sequence[Head],
    modalities: Sequence[ModalityTokens],
    perturbations: Sequence[Perturbation],
) -> NDArray[np.bool_]:
    """Whether each head gets each clip right under each perturbation, (perturbations, heads, n_test)."""
    data = job.data
    truth = [of_target[data.test].cpu().numpy() for of_target in data.truth]
    correct = np.zeros((len(perturbations), len(heads), len(data.test)), dtype=bool)
    by_name = {modality.name: modality for modality in modalities}
    views = {name: modality.views for name, modality in by_name.items()}
    size = max(1, min(_CLIPS, _BYTES // max(modality.bytes_per_clip for modality in modalities)))
    for part in torch.arange(len(data.test), device=data.test.device).split(size):
        unchanged = {name: modality.stored(modality.standardised(part)) for name, modality in by_name.items()}
        masks = {name: modality.present[part] for name, modality in by_name.items()}
        present = {name: None if mask.all() else mask for name, mask in masks.items()}
        indices = torch.arange(len(part), device=part.device)
        clips = part.cpu().numpy()
        for number, perturbation in enumerate(perturbations):
            name = perturbation.modality
            stored, without = dict(unchanged), None
            if perturbation.apply is not None:
                stored[name] = by_name[name].stored(perturbation.apply(part))
            elif name:
                without = name
            inputs = HeadInputs(heads[0], job.options, stored, views, present, indices)
            for which, head in enumerate(heads):
                logits = predict(head, inputs, indices, without).cpu().numpy()
                correct[number, which, clips] = all_correct(
                    data.targets, logits, [of_target[clips] for of_target in truth]
                )
    return correct


def _class_numbers(data: FusionData) -> NDArray[np.int64]:
    """A number per test clip, the same where all classes of all targets agree. int64 (n_test,)."""
    columns = [of_target[data.test].cpu().numpy().reshape(len(data.test), -1) for of_target in data.truth]
    return np.unique(np.concatenate(columns, axis=1), axis=0, return_inverse=True)[1].ravel()
