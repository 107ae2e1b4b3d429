"""A head on tokens from shards on disk, against the same from memory."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from fuse_settings import CLIPS_PER_SHARD, TOKEN_BATCH, TOKEN_CLASSES, TOKEN_CLIPS, TOKENS, timed
from fuse_sides import Side, check_losses, train_heads
from pairs import Figure

from avfuse.features.backbones import WeightsChoice
from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.feature_names import resolve
from avfuse.manifests import Manifest, Target
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadInputs


def token_figure(in_memory: FusionData, streamed: FusionData) -> Figure:
    """Epochs of equally many steps over the same clips, read from shards and out of tensors."""
    ours, theirs = (
        Side(name, partial(train_heads, [token_trainer(data)]))
        for name, data in (("from shards", streamed), ("from memory", in_memory))
    )
    figure = timed("token_step_time_over_in_memory", ours, theirs)
    check_losses(ours, theirs)
    return figure


def token_trainer(data: FusionData) -> HeadTrainer:
    head = get_head("bottleneck")
    recipe = head.recipe.model_copy(update={"batch_size": TOKEN_BATCH})
    return HeadTrainer(HeadInputs.of(head.name, data, data.train, head.Options(), recipe), data.truth, recipe, seed=0)


def save_tokens(cache: Path) -> Manifest:
    """Made-up tokens, float16 and in several shards, of clips whose media are not there. Of ten clips eight are for
    training."""
    generator = np.random.default_rng(0)
    numbers = np.arange(TOKEN_CLIPS)
    labels = generator.integers(TOKEN_CLASSES, size=TOKEN_CLIPS)
    names = tuple(f"class {number}" for number in range(TOKEN_CLASSES))
    table = pd.DataFrame(
        {
            "clip_id": [f"clip{number}" for number in numbers],
            "path": [f"{number}.avi" for number in numbers],
            "start": np.nan,
            "end": np.nan,
            "label": [names[label] for label in labels],
            "split": np.select([numbers % 10 == 8, numbers % 10 == 9], ["val", "test"], "train"),
            "group": [f"group{number}" for number in numbers],
        }
    )
    manifest = Manifest("bench", "bench", cache, table, targets=(Target("label", names),))
    clips = manifest.clips()
    for spec in resolve(TOKENS.values(), weights=WeightsChoice("random")):
        points = generator.standard_normal((TOKEN_CLASSES, spec.shape[-1]), dtype=np.float32)
        for first in range(0, TOKEN_CLIPS, CLIPS_PER_SHARD):
            some = slice(first, first + CLIPS_PER_SHARD)
            rows = generator.standard_normal((len(clips[some]), *spec.shape), dtype=np.float32)
            rows = (rows + points[labels[some], None]).astype(np.float16)
            done = [(clip, MISSING) for clip in clips[some]]
            FeatureStore(cache, manifest.collection, spec).commit(ChunkResult(spec, done=done, data=list(rows)))
    return manifest
