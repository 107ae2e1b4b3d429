"""Attribution of a trained head's class scores to cached tokens, by Grad-CAM or attention rollout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfuse.features.cache.store import NOT_EXTRACTED, extract_hint
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.moved_modules import warn_moved
from avfuse.stages.fuse.analysis.attention_rollout import attention_rollout, why_without_attention
from avfuse.stages.fuse.analysis.perturbations import ModalityTokens
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.data.token_layout import FeatureTokens, feature_tokens
from avfuse.stages.fuse.evaluation.metrics import mean_probabilities
from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.heads.base import Masks
from avfuse.stages.fuse.runs.predict import FeatureSource, RestoredRow
from avfuse.stages.fuse.runs.restore import saved_options, saved_recipe
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.training.job import TrainingJob

Method = Literal["grad-cam", "attention"]
METHODS: tuple[Method, ...] = get_args(Method)
_CLIPS = 16
"""Clips explained at once, at most: the gradients of all their tokens are in memory."""
_SHARE = 16
"""A head explains this share of its evaluation batch at once."""

_NOT_REACHED: Mapping[Method, str] = {
    "grad-cam": "no cell reaches the score: where tokens have a CLS, some heads read that alone",
    "attention": "nothing attends to it",
}


@dataclass(frozen=True)
class Explanation:
    """Maps of heads of one row, averaged over seeds, for some clips."""

    method: Method
    classes: NDArray[np.int64]
    """(clips, targets), the explained classes."""
    probabilities: NDArray[np.float64]
    """(clips, targets), of these classes, the mean over heads."""
    parts: Mapping[str, Sequence[FeatureTokens]]
    """The features of each modality that has a map."""
    maps: Mapping[str, NDArray[np.float64]]
    """(clips, cells) by modality, the cells of all its features in turn. Each head's map is divided by its sum before
    the mean over heads: Grad-CAM's add up to less than one where some heads have a map of zeros. NaN for clips without
    the modality, and where no cell reaches the score."""
    without_map: Mapping[str, str]
    """The modalities without a map, and why."""
    heads: int = 1
    """Number of heads averaged."""

    def heatmap(self, modality: str, part: int, clip: int) -> NDArray[np.float64]:
        """The map of one feature of a modality, in the shape of its cells, in multiples of the uniform share."""
        sizes = [feature.tokens.size for feature in self.parts[modality]]
        ends = list(accumulate(sizes))
        row = self.maps[modality][clip] * ends[-1]
        own: NDArray[np.float64] = row[ends[part] - sizes[part] : ends[part]]
        return own.reshape(self.parts[modality][part].tokens.shape)

    def map_of(self, modality: str, part: int, clip: int) -> NDArray[np.float64]:
        """`heatmap` by its old name, for one release."""
        warn_moved("Explanation.map_of", "Explanation.heatmap")
        return self.heatmap(modality, part, clip)

    def zeros(self, modality: str, clip: int) -> int:
        """Number of heads whose map of a modality is zero everywhere; 0 if there is no map."""
        total = float(self.maps[modality][clip].sum())
        return 0 if np.isnan(total) else round(self.heads * (1 - total))


@dataclass(frozen=True)
class _Clips:
    """A batch of clips."""

    tokens: Mapping[str, Tensor]
    """Tokens by modality (B, W, T, D), standardised; W are the windows averaged at test."""
    present: Masks

    @classmethod
    def of(cls, modalities: Sequence[ModalityTokens], indices: Tensor) -> Self:
        tokens = {
            modality.name: modality.standardised(indices)[:, list(modality.views.test_views)] for modality in modalities
        }
        masks = {modality.name: modality.present[indices] for modality in modalities}
        return cls(tokens, {name: None if mask.all() else mask for name, mask in masks.items()})

    def passes(self, head: Head) -> Iterator[dict[str, Tensor]]:
        """The inputs of `forward` for each window."""
        inputs = head.modality_inputs()
        for number in range(max(tokens.shape[1] for tokens in self.tokens.values())):
            yield {
                name: inputs[name].to_layout(tokens[:, number % tokens.shape[1]])
                for name, tokens in self.tokens.items()
            }

    def logits(self, head: Head) -> Tensor:
        """(B, width), as at test."""
        of_windows = [head(prepared, self.present)["logits"] for prepared in self.passes(head)]
        return torch.stack(of_windows).mean(dim=0)


def explain(
    job: TrainingJob,
    heads: Sequence[Head],
    clips: Tensor,
    method: Method = "grad-cam",
    classes: NDArray[np.int64] | None = None,
) -> Explanation:
    """Explain heads trained by one job, from several seeds.

    `grad-cam` (Selvaraju et al., ICCV 2017) over the standardised tokens of each modality: relu(sum_d w_d x_td), where
    w_d is the mean over cells t of the gradient of the class's logit with respect to x_td; of several targets it is the
    sum of their classes' logits. Heads that average or concatenate tokens are differentiated through that.
    `attention`: see `attention_rollout`; it does not depend on the class.

    Args:
        job: of any of the seeds.
        heads: in evaluation mode, on the data's device.
        clips: int64 (B,), rows of `job.data.table`.
        classes: int64 (B, targets); by default the likeliest, by the heads' mean probability.

    Raises:
        UsageError: no modality has a map: for want of cells or of attention, or because no cell reaches the logits.
    """
    of_clips = replace(job, data=replace(job.data, test=clips))
    modalities = [ModalityTokens.of(of_clips, *named_input) for named_input in heads[0].modality_inputs().items()]
    # Which tokens are cells of a map, and which modalities have none.
    features = {modality.name: feature_tokens(modality.modality, modality.views.test_views) for modality in modalities}
    cells = {
        name: torch.from_numpy(np.concatenate([feature.tokens.ravel() for feature in of_modality])).to(clips.device)
        for name, of_modality in features.items()
    }
    reasons = {modality.name: _why_without_map(modality, len(cells[modality.name])) for modality in modalities}
    without = {name: reason for name, reason in reasons.items() if reason}
    if len(without) == len(modalities):
        raise _no_map_error(job, method, without)
    with_cells = {name: of_modality for name, of_modality in cells.items() if name not in without}
    # The classes to explain.
    targets = job.data.targets
    size = max(1, min(_CLIPS, heads[0].evaluation_batch_size // _SHARE))
    batches = [_Clips.of(modalities, part) for part in torch.arange(len(clips), device=clips.device).split(size)]
    probabilities = mean_probabilities(targets, [_logits(head, batches) for head in heads])
    if classes is None:
        classes = np.stack([of_target.argmax(axis=1) for of_target in probabilities], axis=1)
    columns = torch.from_numpy(classes + _first_logits(targets)).to(clips.device).split(size)
    # A map per head, and their mean.
    of_heads = [_maps(head, method, batches, with_cells, columns) for head in heads]
    reached = {name for maps in of_heads for name, values in maps.items() if values.isfinite().any()}
    without |= dict.fromkeys(with_cells.keys() - reached, _NOT_REACHED[method])
    if not reached:
        raise _no_map_error(job, method, without)
    of_classes = [values[np.arange(len(values)), of] for values, of in zip(probabilities, classes.T, strict=True)]
    return Explanation(
        method,
        classes,
        np.stack(of_classes, axis=1),
        {name: of_modality for name, of_modality in features.items() if name in reached},
        {name: np.mean([_shares(maps[name]) for maps in of_heads], axis=0) for name in features if name in reached},
        without,
        len(heads),
    )


def _no_map_error(job: TrainingJob, method: Method, without: Mapping[str, str]) -> UsageError:
    reasons = "; ".join(f"{name}: {why}" for name, why in without.items())
    return UsageError(f"head '{job.head}' gives no {method} map ({reasons})")


def _why_without_map(modality: ModalityTokens, cells: int) -> str:
    """Empty where there can be a map."""
    if cells < 2:
        return "one vector a clip has no cells: name features with frames or tokens, such as lite:fbank:tokens"
    return "" if modality.present.any() else "none of these clips has it"


def _first_logits(targets: Targets) -> NDArray[np.int64]:
    return np.array([0, *accumulate(len(target.classes) for target in targets)][:-1])


@torch.no_grad()
def _logits(head: Head, batches: Sequence[_Clips]) -> NDArray[np.float64]:
    """(clips, width)."""
    return torch.cat([batch.logits(head) for batch in batches]).cpu().double().numpy()


def _maps(
    head: Head, method: Method, batches: Sequence[_Clips], cells: Mapping[str, Tensor], columns: Sequence[Tensor]
) -> dict[str, Tensor]:
    """(clips, cells) by modality."""
    if method == "attention":
        of_batches = [_attention(head, batch, cells) for batch in batches]
    else:
        of_batches = [_grad_cam(head, batch, cells, of_batch) for batch, of_batch in zip(batches, columns, strict=True)]
    return {name: torch.cat([maps[name] for maps in of_batches]) for name in of_batches[0]}


def _grad_cam(head: Head, clips: _Clips, cells: Mapping[str, Tensor], columns: Tensor) -> dict[str, Tensor]:
    """(B, cells) by modality."""
    leaves = {name: tokens.detach().requires_grad_() for name, tokens in clips.tokens.items()}
    with torch.enable_grad():
        score = replace(clips, tokens=leaves).logits(head).gather(1, columns).sum()
    gradients = torch.autograd.grad(score, [leaves[name] for name in cells], allow_unused=True)
    maps = {}
    for (name, where), gradient in zip(cells.items(), gradients, strict=True):
        tokens = leaves[name].detach().flatten(1, 2)[:, where]
        slopes = torch.zeros_like(tokens) if gradient is None else gradient.flatten(1, 2)[:, where]
        relevance = (slopes.mean(dim=1, keepdim=True) * tokens).sum(dim=2).relu()
        missing = ~slopes.flatten(1).any(dim=1)
        if (mask := clips.present[name]) is not None:
            missing |= ~mask
        maps[name] = relevance.masked_fill(missing[:, None], torch.nan)
    return maps


def _attention(head: Head, clips: _Clips, cells: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(B, cells) by modality, without the shares of CLS and similar tokens."""
    passes = [attention_rollout(head, prepared, clips.present) for prepared in clips.passes(head)]
    maps = {}
    for name, where in cells.items():
        if name in passes[0]:
            windows = clips.tokens[name].shape[1]
            of_windows = [
                torch.stack([shares[name] for shares in passes[window::windows]]).mean(dim=0)
                for window in range(windows)
            ]
            maps[name] = torch.cat(of_windows, dim=1)[:, where]
    return maps


def _shares(maps: Tensor) -> NDArray[np.float64]:
    """Divided by their sums; maps of zeros stay."""
    values = maps.double().cpu().numpy()
    sums = values.sum(axis=1, keepdims=True)
    return values / np.where(sums == 0, 1, sums)


def explain_clips(
    run: Run,
    row: str,
    clips: Sequence[Clip],
    source: FeatureSource,
    device: str = "cpu",
    method: Method = "grad-cam",
    classes: NDArray[np.int64] | None = None,
) -> tuple[Explanation, str | None]:
    """Explain all seeds of a row on clips that need not be of the run's data set.

    Args:
        source: the cache that holds the clips' features of `saved_layouts`.
        method: heads without attention are explained by Grad-CAM.
        classes: int64 (clips, targets), as of `explain`.

    Returns:
        The explanation, and why it is by Grad-CAM where `attention` was requested.

    Raises:
        UsageError: as `explain` and `restore_head`, and for clips of which these features were not extracted.
    """
    restored = RestoredRow.of(run, row, device)
    fallback = why_without_attention(restored.heads[0]) if method == "attention" else None
    modalities, missing = restored.load(clips, source)
    for clip, reasons in zip(clips, missing, strict=True):
        if NOT_EXTRACTED in reasons.values():
            names = ",".join(spec.name for layout in restored.layouts.values() for spec in layout.specs)
            hint = extract_hint(source.collection, names)
            raise UsageError(f"clip '{clip.clip_id}' has no features {names} in {source.cache}: {hint}")
    indices, nothing = torch.arange(len(clips), device=device), torch.empty(0, dtype=torch.int64, device=device)
    table = pd.DataFrame({"clip_id": [clip.clip_id for clip in clips]})
    data = FusionData(modalities, run.targets, (), table, nothing, nothing, indices, nothing, {})
    first = restored.results[0]
    job = TrainingJob(first.head, data, first.seed, saved_recipe(first), saved_options(first))
    return explain(job, restored.heads, indices, "grad-cam" if fallback else method, classes), fallback
