"""Explanations of any clips whose features are in a cache: what is read is those clips' alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avfuse.features.cache import FeatureStore
from avfuse.features.cache.store import NOT_EXTRACTED, way_in
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.stages.fuse.attention import why_no_attention
from avfuse.stages.fuse.data import FusionData
from avfuse.stages.fuse.explaining import Explanation, Method, explain
from avfuse.stages.fuse.plan import Plan
from avfuse.stages.fuse.predicting import load_clips
from avfuse.stages.fuse.runs import Run
from avfuse.stages.fuse.saved import layouts_of, options_of, recipe_of, restore


def explain_clips(
    run: Run,
    row: str,
    clips: Sequence[Clip],
    cache: Path,
    collection: str,
    device: str = "cpu",
    method: Method = "grad-cam",
    classes: NDArray[np.int64] | None = None,
) -> tuple[Explanation, str | None]:
    """All seeds of a row, as `explain` does it, on clips that need not be of the run's data set; and why it is by
    Grad-CAM where `attention` was asked for, of heads that have none.

    Args:
        clips: of which the features of `layouts_of` are in the collection, in the order of the explanation.
        classes: int64 (clips, targets), as of `explain`.

    Raises:
        UsageError: as `explain` and `restore`, and for clips of which these features were not extracted.
    """
    heads = run.heads[row]
    layouts = layouts_of(run, heads[0])
    shapes = {name: layout.shape for name, layout in layouts.items()}
    trained = [restore(one, shapes, run.targets, torch.device(device)) for one in heads]
    why = why_no_attention(trained[0]) if method == "attention" else None
    stores = {spec.key: FeatureStore(cache, collection, spec) for layout in layouts.values() for spec in layout.specs}
    modalities, missing = load_clips(layouts, stores, clips, device)
    for clip, reasons in zip(clips, missing, strict=True):
        if NOT_EXTRACTED in reasons.values():
            names = ",".join(spec.name for layout in layouts.values() for spec in layout.specs)
            raise UsageError(f"clip '{clip.clip_id}' has no features {names} in {cache}: {way_in(collection, names)}")
    every, nothing = torch.arange(len(clips), device=device), torch.empty(0, dtype=torch.int64, device=device)
    table = pd.DataFrame({"clip_id": [clip.clip_id for clip in clips]})
    data = FusionData(modalities, run.targets, (), table, nothing, nothing, every, nothing, {})
    plan = Plan(heads[0].head, data, heads[0].seed, recipe_of(heads[0]), options_of(heads[0]))
    return explain(plan, trained, every, "grad-cam" if why else method, classes), why
