"""Runs read back to be looked into: some of their rows, their data set, and whether two can be compared."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest
from avfuse.stages.fuse.data import FusionData, load_data
from avfuse.stages.fuse.experiment import reads_banks
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.runs import Run, head_of, load_run, seeds_of_heads
from avfuse.stages.fuse.training import Training


def load_rows(folder: Path, rows: Sequence[str] = ()) -> Run:
    """A run with these rows alone, or all of them. Raises UsageError for one that it does not have, and where none is
    trained yet."""
    known = list(seeds_of_heads(folder))
    if not known:
        raise UsageError(f"{folder} holds no trained head yet: finish it with avfuse fuse")
    if unknown := [row for row in rows if row not in known]:
        raise UsageError(f"{folder} holds no row '{unknown[0]}': it has {', '.join(known)}")
    if not rows:
        return load_run(folder)
    parts = [load_run(folder, row) for row in dict.fromkeys(rows)]
    return replace(parts[0], heads={row: heads for part in parts for row, heads in part.heads.items()})


def load_rows_of_both(folder: Path) -> Run:
    """A run with the rows whose heads take both modalities. Raises UsageError where there is none."""
    run = load_rows(folder)
    heads = {}
    for row, seeds in run.heads.items():
        kind, described = get_head(seeds[0].head), seeds[0].described
        seen = kind.sees(kind.Options.model_validate(described["options"]))
        if len(seen) > 1 and described["recipe"]["without"] is None:
            heads[row] = seeds
    if not heads:
        raise UsageError(f"no row of {folder} takes both modalities: name rows with --head ({', '.join(run.heads)})")
    return replace(run, heads=heads)


def data_of(
    run: Run, manifest: Manifest, cache: Path, device: str = "cpu", memory_bytes: int | None = None
) -> FusionData:
    """The features that a run names, by key. memory_bytes: as the run had it, see `load_data`.

    Raises UsageError where a feature is no longer cached, and where clips, splits or features have changed since.
    """
    described = run.described
    inputs = {
        name: [f"{spec['name']}@{spec['key']}" for spec in specs] for name, specs in described["features"].items()
    }
    heads = [head_of(row) for row in described["rows"]]
    banks = reads_banks(heads, Training(**described["training"]), described["sweep"])
    data = load_data(manifest, cache, inputs, device, memory_bytes, banks=banks)
    if data.fingerprint != described["data"]:
        raise UsageError(
            f"the clips of '{manifest.name}' or their features have changed since {run.folder} was trained: train it "
            "again (avfuse fuse ... --replace); of a run that streamed features, name its --memory"
        )
    return data


def same_test(a: Run, b: Run) -> NDArray[np.int64]:
    """Where each test clip of A is among those of B. int64 (n_test,). Raises UsageError unless they are the same clips
    with the same classes."""
    (one, *_), (other, *_) = next(iter(a.heads.values())), next(iter(b.heads.values()))
    if a.described["collection"] != b.described["collection"]:
        raise UsageError(
            f"{a.folder} is of data set '{a.described['dataset']}', {b.folder} of '{b.described['dataset']}': compare "
            "runs of one data set"
        )
    if set(one.clip_ids) != set(other.clip_ids):
        shared = len(set(one.clip_ids) & set(other.clip_ids))
        raise UsageError(
            f"{a.folder} and {b.folder} are not tested on the same clips: of {len(one.clip_ids)} and "
            f"{len(other.clip_ids)} they share {shared}; train both on one split and on features of the same clips"
        )
    place = {clip_id: number for number, clip_id in enumerate(other.clip_ids)}
    order = np.array([place[clip_id] for clip_id in one.clip_ids], dtype=np.int64)
    known = [[(each.name, each.classes, each.several) for each in run.targets] for run in (a, b)]
    if known[0] != known[1] or not all(map(np.array_equal, one.truth, (each[order] for each in other.truth))):
        raise UsageError(
            f"{a.folder} and {b.folder} do not tell the same classes of their test clips: train both on one manifest"
        )
    return order
