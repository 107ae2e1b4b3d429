"""Small runs over made-up kitchen features, and changes of their files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from made_up_sets import DIM, INPUTS

from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.cache.maintenance.imports import ImportDescription
from avfuse.manifests import Manifest, load_manifest
from avfuse.pipeline.provenance import describe_run
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training.overrides import TrainingOverrides

QUICK = TrainingOverrides(epochs=3, hidden="16")
SOUNDS = ["imported:sound", "imported:hiss"]


def add_hiss(cache: Path, manifest: Manifest) -> None:
    """A feature of the sound that tells nothing."""
    spec = ImportDescription("hiss", "audio", "made up", dtype="float32").spec((DIM,))
    rows = np.random.default_rng(0).standard_normal((len(manifest), DIM)).astype(np.float32)
    done = [(clip, MISSING) for clip in manifest.clips()]
    FeatureStore(cache, manifest.collection, spec).commit(ChunkResult(spec, done=done, data=list(rows), no_audio=[]))


def train(
    folder: Path,
    name: str,
    heads: Sequence[str] = ("audio", "video", "mlp"),
    seeds: int = 2,
    training: TrainingOverrides = QUICK,
    dataset: str = "kitchen",
    memory_bytes: int | None = None,
) -> Path:
    """A run without its page."""
    manifest = load_manifest(folder / "cache", dataset)
    data = load_data(manifest, folder / "cache", INPUTS, memory_bytes=memory_bytes)
    described = describe_run(manifest, f"avfuse fuse --name {name}", folder / "cache")
    runs = folder / "runs" / dataset / name
    return run_experiment(data, runs, list(heads), seeds, training, described, progress=False).folder


def change(folder: Path, name: str, **values: object) -> None:
    """Something else in a description."""
    described = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**described, **values}))


def lines_of(text: str, *beginnings: str) -> list[str]:
    return [line for line in text.splitlines() if re.split(r"  +", line)[: len(beginnings)] == list(beginnings)]
