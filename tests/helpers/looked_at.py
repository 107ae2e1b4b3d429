"""A small data set with real media, names that could be mistaken for markup, and features that are made up."""

from pathlib import Path

import numpy as np
import pandas as pd

from avfuse.features.cache import ChunkResult, FeatureStore, fingerprint
from avfuse.features.feature_names import resolve
from avfuse.manifests import Manifest, Target, save_manifest
from avfuse.pipeline.provenance import describe_run
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.training.overrides import TrainingOverrides

CLASSES = ("high <b>tone</b>", "</script><script>window.harm = 1</script>", 'low "tone" & more')
HARMFUL_CLIP = "tone/3 <img src=x onerror='window.harm = 1'>"
GONE = "tone/7"
CLIPS, DIM = 48, 16
INPUTS = {"video": ["lite:frames"], "audio": ["lite:fbank:tokens"]}


def looked_at_set(cache: Path, media: Path) -> Manifest:
    """Clips of three classes, told by one frame and by one cell of the filter bank; the file of one test clip is gone.
    media: a folder with good.avi and other.avi."""
    classes = np.arange(CLIPS) % 3
    ids = [f"tone/{number}" for number in range(CLIPS)]
    ids[3] = HARMFUL_CLIP
    paths = [("good.avi", "other.avi")[number % 2] for number in range(CLIPS)]
    paths[7] = "gone.avi"
    table = pd.DataFrame(
        {
            "clip_id": ids,
            "path": paths,
            "start": np.nan,
            "end": np.nan,
            "label": np.array(CLASSES)[classes],
            "split": np.where(np.arange(CLIPS) % 4 == 3, "test", "train"),
            "group": [f"g{number}" for number in range(CLIPS)],
        }
    )
    manifest = Manifest("tones", "tones", media, table, targets=(Target("label", CLASSES),))
    save_manifest(cache, manifest)
    generator = np.random.default_rng(0)
    for name, shape, cell in (("lite:frames", (25, DIM), 2), ("lite:fbank:tokens", (128, DIM), 75)):
        rows = generator.standard_normal((CLIPS, *shape)).astype(np.float32)
        rows[:, cell] += 6 * generator.standard_normal((3, DIM))[classes]
        (spec,) = resolve([name])
        done = [(clip, fingerprint(clip.path)) for clip in manifest.clips()]
        result = ChunkResult(spec.model_copy(update={"shape": shape}), done=done, data=list(rows), no_audio=[])
        FeatureStore(cache, manifest.collection, result.spec).commit(result)
    gone = [clip for clip in manifest.clips() if clip.clip_id == GONE]
    (drawn,) = resolve(["image:mfcc"])
    picture = np.full(drawn.shape, 128, np.uint8)
    kept = ChunkResult(drawn, done=[(clip, fingerprint(clip.path)) for clip in gone], data=[picture], no_audio=[])
    FeatureStore(cache, manifest.collection, drawn).commit(kept)
    return manifest


def trained(cache: Path, manifest: Manifest, folder: Path, heads: list[str], **training: object) -> Run:
    """A run of two seeds and a few epochs."""
    data = load_data(manifest, cache, INPUTS)
    described = describe_run(manifest, "avfuse fuse --name 'heads <i>'", cache)
    settings = TrainingOverrides(**{"epochs": 8, **training})  # type: ignore[arg-type]
    return run_experiment(data, folder, heads, 2, settings, described, progress=False)
