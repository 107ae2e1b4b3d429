"""What a trained head's score of a class rests on: Grad-CAM over cached tokens, and attention, clip by clip."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, get_args

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
_CLIPS = 16  # at a time, at most: gradients of all their tokens are kept
_SHARE = 16  # of how many a head looks at together where nothing is kept

_NOT_REACHED: Mapping[Method, str] = {
    "grad-cam": "no cell reaches the score: where tokens have a CLS, some heads read that alone",
    "attention": "nothing attends to it",
}


@dataclass(frozen=True)
class Explanation:
    """What heads of one row, seeds taken together, make of some clips, and of which cells.

    classes: int64 (clips, targets), what is explained.
    probabilities: float64 (clips, targets), of these classes, the mean over heads.
    parts: the features of each modality that has a map.
    maps: float64 (clips, cells) by modality, the cells of all parts one after the other. The map of each head is
        divided by its sum, and these shares are averaged over heads: of Grad-CAM they add up to less than one where
        some heads have a map of zeros. NaN for clips without the modality, and where no cell reaches the score.
    without_map: modalities that have none, and why.
    heads: how many were taken together.
    """

    method: Method
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    parts: Mapping[str, Sequence[FeatureTokens]]
    maps: Mapping[str, NDArray[np.float64]]
    without_map: Mapping[str, str]
    heads: int = 1

    def heatmap(self, modality: str, part: int, clip: int) -> NDArray[np.float64]:
        """The map of one feature of a modality, in the shape of its cells, times the number of the modality's cells: 1
        is what each would have were all alike."""
        sizes = [each.tokens.size for each in self.parts[modality]]
        ends = list(accumulate(sizes))
        row = self.maps[modality][clip] * ends[-1]
        own: NDArray[np.float64] = row[ends[part] - sizes[part] : ends[part]]
        return own.reshape(self.parts[modality][part].tokens.shape)

    def map_of(self, modality: str, part: int, clip: int) -> NDArray[np.float64]:
        """`heatmap` by its old name, for one release."""
        warn_moved("Explanation.map_of", "Explanation.heatmap")
        return self.heatmap(modality, part, clip)

    def zeros(self, modality: str, clip: int) -> int:
        """How many heads have a map of a modality that is zero everywhere; 0 where there is none."""
        total = float(self.maps[modality][clip].sum())
        return 0 if np.isnan(total) else round(self.heads * (1 - total))


@dataclass(frozen=True)
class _Clips:
    """Some clips as a head takes them: standardised tokens (B, W, T, D), W the windows averaged at test."""

    tokens: Mapping[str, Tensor]
    present: Masks

    @classmethod
    def of(cls, modalities: Sequence[ModalityTokens], indices: Tensor) -> "_Clips":
        tokens = {each.name: each.standardised(indices)[:, list(each.views.test_views)] for each in modalities}
        masks = {each.name: each.present[indices] for each in modalities}
        return cls(tokens, {name: None if mask.all() else mask for name, mask in masks.items()})

    def passes(self, head: Head) -> Iterator[dict[str, Tensor]]:
        """What `forward` takes, for each of the windows that are averaged."""
        doors = head.modality_inputs()
        for number in range(max(each.shape[1] for each in self.tokens.values())):
            yield {name: doors[name].to_layout(each[:, number % each.shape[1]]) for name, each in self.tokens.items()}

    def logits(self, head: Head) -> Tensor:
        """(B, width), as at test."""
        every = [head(prepared, self.present)["logits"] for prepared in self.passes(head)]
        return torch.stack(every).mean(dim=0)


def explain(
    job: TrainingJob,
    heads: Sequence[Head],
    clips: Tensor,
    method: Method = "grad-cam",
    classes: NDArray[np.int64] | None = None,
) -> Explanation:
    """Explain heads that were trained by one plan, from several seeds.

    `grad-cam` (Selvaraju et al., ICCV 2017) over the standardised tokens of each modality: relu(sum_d w_d x_td), where
    w_d is the mean over cells t of the gradient of the class's logit with respect to x_td; of several targets it is the
    sum of their classes' logits. Heads that average tokens, or lay them side by side, are differentiated through that.
    `attention`: see `attention_rollout`; it does not depend on the class.

    Args:
        plan: of any of the seeds.
        heads: in evaluation mode, on the data's device.
        clips: int64 (B,), rows of `job.data.table`.
        classes: int64 (B, targets); by default the likeliest, by the heads' mean probability.

    Raises:
        UsageError: no modality has a map: for want of cells or of attention, or because no cell reaches the logits.
    """
    own = replace(job, data=replace(job.data, test=clips))
    seen = [ModalityTokens.of(own, name, door) for name, door in heads[0].modality_inputs().items()]
    every = {each.name: feature_tokens(each.modality, each.views.test_views) for each in seen}
    cells = {
        name: torch.from_numpy(np.concatenate([part.tokens.ravel() for part in parts])).to(clips.device)
        for name, parts in every.items()
    }
    without = {each.name: why for each in seen if (why := _why_none(each, len(cells[each.name])))}
    if len(without) == len(seen):
        raise _refusal(job, method, without)
    wanted = {name: of_modality for name, of_modality in cells.items() if name not in without}
    targets = job.data.targets
    size = max(1, min(_CLIPS, heads[0].evaluation_batch_size // _SHARE))
    batches = [_Clips.of(seen, part) for part in torch.arange(len(clips), device=clips.device).split(size)]
    chances = mean_probabilities(targets, [_logits(head, batches) for head in heads])
    if classes is None:
        classes = np.stack([each.argmax(axis=1) for each in chances], axis=1)
    columns = torch.from_numpy(classes + _first_logits(targets)).to(clips.device).split(size)
    found = [_maps(head, method, batches, wanted, columns) for head in heads]
    reached = {name for maps in found for name, own in maps.items() if own.isfinite().any()}
    without |= dict.fromkeys(wanted.keys() - reached, _NOT_REACHED[method])
    if not reached:
        raise _refusal(job, method, without)
    return Explanation(
        method,
        classes,
        np.stack([each[np.arange(len(each)), of] for each, of in zip(chances, classes.T, strict=True)], axis=1),
        {name: parts for name, parts in every.items() if name in reached},
        {name: np.mean([_shares(maps[name]) for maps in found], axis=0) for name in every if name in reached},
        without,
        len(heads),
    )


def _refusal(job: TrainingJob, method: Method, without: Mapping[str, str]) -> UsageError:
    reasons = "; ".join(f"{name}: {why}" for name, why in without.items())
    return UsageError(f"head '{job.head}' gives no {method} map ({reasons})")


def _why_none(seen: ModalityTokens, cells: int) -> str:
    """Empty where there can be a map."""
    if cells < 2:
        return "one vector a clip has no cells: name features with frames or tokens, such as lite:fbank:tokens"
    return "" if seen.present.any() else "none of these clips has it"


def _first_logits(targets: Targets) -> NDArray[np.int64]:
    return np.array([0, *accumulate(len(each.classes) for each in targets)][:-1])


@torch.no_grad()
def _logits(head: Head, batches: Sequence[_Clips]) -> NDArray[np.float64]:
    """(clips, width)."""
    return torch.cat([batch.logits(head) for batch in batches]).cpu().double().numpy()


def _maps(
    head: Head, method: Method, batches: Sequence[_Clips], cells: Mapping[str, Tensor], columns: Sequence[Tensor]
) -> dict[str, Tensor]:
    """(clips, cells) by modality."""
    if method == "attention":
        parts = [_attention(head, each, cells) for each in batches]
    else:
        parts = [_grad_cam(head, each, cells, of) for each, of in zip(batches, columns, strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _grad_cam(head: Head, clips: _Clips, cells: Mapping[str, Tensor], columns: Tensor) -> dict[str, Tensor]:
    """(B, cells) by modality."""
    leaves = {name: each.detach().requires_grad_() for name, each in clips.tokens.items()}
    with torch.enable_grad():
        score = replace(clips, tokens=leaves).logits(head).gather(1, columns).sum()
    gradients = torch.autograd.grad(score, [leaves[name] for name in cells], allow_unused=True)
    maps = {}
    for (name, where), gradient in zip(cells.items(), gradients, strict=True):
        tokens = leaves[name].detach().flatten(1, 2)[:, where]
        slopes = torch.zeros_like(tokens) if gradient is None else gradient.flatten(1, 2)[:, where]
        found = (slopes.mean(dim=1, keepdim=True) * tokens).sum(dim=2).relu()
        lacking = ~slopes.flatten(1).any(dim=1)
        if (mask := clips.present[name]) is not None:
            lacking |= ~mask
        maps[name] = found.masked_fill(lacking[:, None], torch.nan)
    return maps


def _attention(head: Head, clips: _Clips, cells: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(B, cells) by modality. What CLS and its like get is left out."""
    every = [attention_rollout(head, prepared, clips.present) for prepared in clips.passes(head)]
    maps = {}
    for name, where in cells.items():
        if name in every[0]:
            windows = clips.tokens[name].shape[1]
            of_windows = [torch.stack([each[name] for each in every[at::windows]]).mean(dim=0) for at in range(windows)]
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
