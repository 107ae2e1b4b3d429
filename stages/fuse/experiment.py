"""Many heads and seeds under one name, saved so that nothing is trained twice to be read again.

runs/<dataset>/<name>/
    run.json                    what the numbers depend on
    results.csv                 one line per head and seed
    <head>/seed-<n>.json        settings and metrics of one trained head
    <head>/seed-<n>.curve.csv   its learning curve
    <head>/seed-<n>.npz         its predictions: clip_id, logits and target_<name> of test clips,
                                unlabelled_clip_id and unlabelled_logits
    <head>/seed-<n>.safetensors its weights
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from features.errors import UsageError
from stages.fuse.data import FusionData
from stages.fuse.fitting import SIDE_BY_SIDE, trains_together
from stages.fuse.heads import get_head
from stages.fuse.metrics import Truth, evaluate
from stages.fuse.targets import Targets
from stages.fuse.trainer import Trained, Training, train_heads

FORMAT_VERSION = 2


@dataclass(frozen=True)
class HeadRun:
    """One trained head, read back: logits float32 (n_test, width) and the truth, an array a target, in the order of
    clip_ids."""

    head: str
    seed: int
    file: Path
    described: dict[str, Any]
    clip_ids: list[str]
    truth: tuple[Truth, ...]
    logits: NDArray[np.float32]
    curve: pd.DataFrame

    def unlabelled(self) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of the unlabelled clips, and their logits (n_unlabelled, width)."""
        with np.load(self.file, allow_pickle=False) as saved:
            return [clip_id.decode() for clip_id in saved["unlabelled_clip_id"]], saved["unlabelled_logits"]


@dataclass(frozen=True)
class Run:
    """A named set of trained heads over one data set. `groups` (n_test,) go with every HeadRun's clips."""

    folder: Path
    described: dict[str, Any]
    heads: dict[str, list[HeadRun]]

    @cached_property
    def targets(self) -> Targets:
        return Targets.from_described(self.described["targets"])

    @property
    def groups(self) -> NDArray[np.object_]:
        return np.array(self.described["test_groups"], dtype=object)


def run_experiment(
    data: FusionData,
    folder: Path,
    heads: Sequence[str],
    seeds: int,
    training: Training,
    described: Mapping[str, Any],
    *,
    replace: bool = False,
    progress: bool = True,
) -> Run:
    """Train what is not trained yet, and return all that lies under `folder`.

    `described` goes into run.json as it is (data set, command, versions). Raises UsageError when the folder holds a run
    with other settings and `replace` is not given.
    """
    described = {**described, **_describe(data, training)}
    _claim(folder, described, replace)
    missing = {
        head: [seed for seed in range(seeds) if not _is_done(folder, head, seed, _key(data, head, seed, training))]
        for head in heads
    }
    work = [(head, company) for head in heads for company in _companies(head, data, seeds, missing[head])]
    epochs = sum(training.resolve(head).epochs * 2 * len(company) for head, company in work)
    with tqdm(total=epochs, unit="epoch", desc="fuse", disable=not progress or not work) as bar:
        for head, company in work:
            bar.set_postfix(head=head, seeds=",".join(map(str, company)))
            before, started = bar.n, time.perf_counter()
            every = train_heads(head, data, company, training, on_epoch=bar.update)
            seconds = (time.perf_counter() - started) / len(company)
            for seed, trained in zip(company, every, strict=True):
                if seed in missing[head]:
                    _save(folder, head, seed, trained, data, training, seconds)
            bar.update(before + training.resolve(head).epochs * 2 * len(company) - bar.n)  # some stop early
    run = load_run(folder)
    _write_atomically(folder / "results.csv", results_table(run).to_csv(index=False))
    return run


def _companies(head: str, data: FusionData, seeds: int, missing: Sequence[int]) -> list[list[int]]:
    """Seeds to train side by side. What trains together depends on what was asked for, not on what is there already:
    after a run that was broken off, a head then comes out of the same sums as in an unbroken one."""
    if not trains_together(head, data):
        return [[seed] for seed in missing]
    companies = [list(range(first, min(first + SIDE_BY_SIDE, seeds))) for first in range(0, seeds, SIDE_BY_SIDE)]
    return [company for company in companies if set(company) & set(missing)]


def load_run(folder: Path, head: str | None = None) -> Run:
    """Read a run back, all of its heads or one. Raises UsageError when there is none, or another version made it."""
    described = read_description(folder)
    heads: dict[str, list[HeadRun]] = {}
    for name in described["head_order"]:
        if head in (None, name) and (paths := _seed_files(folder, name)):
            heads[name] = [_load_head(described["targets"], name, path) for path in paths]
    return Run(folder, described, heads)


def read_description(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises UsageError when there is none, or another version made it."""
    described = _read_json(folder / "run.json")
    if described.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"{folder} holds a run of another version of avfuse, which cannot be read: train it again (--replace)"
        )
    return described


def seeds_of_heads(folder: Path) -> dict[str, int]:
    """How many seeds of which heads a run's folder holds."""
    heads = read_description(folder)["head_order"]
    return {head: len(paths) for head in heads if (paths := _seed_files(folder, head))}


def _seed_files(folder: Path, head: str) -> list[Path]:
    return sorted((folder / head).glob("seed-*.json"), key=lambda path: int(path.stem.split("-")[1]))


def results_table(run: Run) -> pd.DataFrame:
    """One line per head and seed."""
    return pd.DataFrame(
        [
            {"head": one.head, "seed": one.seed, **one.described["metrics"], **one.described["cost"]}
            for runs in run.heads.values()
            for one in runs
        ]
    )


def _describe(data: FusionData, training: Training) -> dict[str, Any]:
    from stages.fuse.heads import head_names

    test = data.table.iloc[data.test.cpu().numpy()]
    return {
        "format_version": FORMAT_VERSION,
        "data": data.fingerprint,
        "training": asdict(training),
        "targets": data.targets.described(),
        "test_groups": test["group"].tolist(),
        "clips": {
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "unlabelled": len(data.unlabelled),
            "excluded": dict(data.excluded),
            "unpredicted": list(data.unpredicted),
        },
        "features": {
            name: [json.loads(spec.canonical_json) | {"key": spec.key} for spec in modality.specs]
            for name, modality in data.modalities.items()
        },
        "untrained": sorted({spec.name for m in data.modalities.values() for spec in m.specs if spec.untrained}),
        "head_order": head_names(),
    }


def _claim(folder: Path, described: dict[str, Any], replace: bool) -> None:
    """Make the folder this run's. Another run's results are never mixed with it nor silently overwritten."""
    known = folder / "run.json"
    if known.exists() and not replace:
        other = _read_json(known)
        differing = [name for name in ("format_version", "data", "training") if other.get(name) != described[name]]
        if differing:
            raise UsageError(
                f"{folder} holds a run with other settings ({_differences(other, described, differing)}): "
                "give this one another name (NAME=..., --name), or replace it (--replace)"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _write_atomically(known, json.dumps(described, indent=2) + "\n")
    if replace:
        keep = described
        for path in folder.glob("*/seed-*.json"):
            one = _read_json(path)
            if one["data"] != keep["data"] or one["training"] != keep["training"]:
                for sibling in path.parent.glob(f"{path.stem}.*"):
                    sibling.unlink()


def _differences(other: dict[str, Any], described: dict[str, Any], names: list[str]) -> str:
    parts = []
    for name in names:
        if name == "training":
            ours, theirs = described[name], other.get(name, {})
            parts += [
                f"{key}: {theirs.get(key)} there, {ours[key]} here" for key in ours if ours[key] != theirs.get(key)
            ]
        else:
            parts.append({"data": "other clips or features", "format_version": "another version"}[name])
    return "; ".join(parts)


def _key(data: FusionData, head: str, seed: int, training: Training) -> str:
    """What one trained head depends on, as a hash."""
    content = {
        "format": FORMAT_VERSION,
        "data": data.fingerprint,
        "head": head,
        "modalities": get_head(head).modalities,
        "optimisation": asdict(training.resolve(head)),
        "shuffle_labels": training.shuffle_labels,
        "seed": seed,
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _is_done(folder: Path, head: str, seed: int, key: str) -> bool:
    path = folder / head / f"seed-{seed}.json"
    return path.exists() and _read_json(path)["key"] == key


def _save(
    folder: Path, head: str, seed: int, trained: Trained, data: FusionData, training: Training, seconds: float
) -> None:
    """Write one trained head; its JSON comes last and marks it complete."""
    target = folder / head
    target.mkdir(parents=True, exist_ok=True)
    stem = target / f"seed-{seed}"
    truth = [each[data.test].cpu().numpy() for each in data.truth]
    save_file({name: tensor.contiguous() for name, tensor in trained.head.state_dict().items()}, f"{stem}.safetensors")
    predictions: dict[str, Any] = {
        "clip_id": _ids(data, data.test),
        "logits": trained.logits,
        **{f"target_{target.name}": each for target, each in zip(data.targets, truth, strict=True)},
        "unlabelled_clip_id": _ids(data, data.unlabelled),
        "unlabelled_logits": trained.unlabelled_logits,
    }
    np.savez_compressed(f"{stem}.npz", **predictions)
    pd.DataFrame([asdict(epoch) for epoch in trained.curve]).to_csv(f"{stem}.curve.csv", index=False)
    described = {
        "key": _key(data, head, seed, training),
        "data": data.fingerprint,
        "training": asdict(training),
        "optimisation": asdict(training.resolve(head)),
        "metrics": {"n_test": len(data.test), **evaluate(data.targets, trained.logits, truth)},
        "cost": {
            f"validation_{data.targets.selection}": trained.curve[trained.best_epoch - 1].validation_score,
            "epochs": trained.best_epoch,
            "parameters": trained.parameters,
            "seconds": round(seconds, 2),
        },
    }
    _write_atomically(Path(f"{stem}.json"), json.dumps(described, indent=2) + "\n")


def _ids(data: FusionData, indices: Tensor) -> NDArray[np.bytes_]:
    return np.array(
        [clip_id.encode() for clip_id in data.table["clip_id"].iloc[indices.cpu().numpy()]], dtype=np.bytes_
    )


def _load_head(targets: Sequence[Mapping[str, Any]], head: str, path: Path) -> HeadRun:
    stem = path.with_suffix("")
    file = path.with_suffix(".npz")
    with np.load(file, allow_pickle=False) as saved:
        return HeadRun(
            head=head,
            seed=int(stem.name.split("-")[1]),
            file=file,
            described=_read_json(path),
            clip_ids=[clip_id.decode() for clip_id in saved["clip_id"]],
            truth=tuple(saved[f"target_{each['name']}"] for each in targets),
            logits=saved["logits"],
            curve=pd.read_csv(f"{stem}.curve.csv"),
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise UsageError(f"{path.parent} holds no run ({path.name} is missing): train one with avfuse fuse") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is damaged ({error}): train again with --replace") from error


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
