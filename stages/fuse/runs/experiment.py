"""Many heads and seeds under one name, saved so that nothing is trained twice to be read again (runs.py)."""

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from avfuse.features.atomic import atomic_write
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import expand_names
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.evaluation.metrics import evaluate
from avfuse.stages.fuse.heads import get_head, head_names
from avfuse.stages.fuse.runs.run_folder import FORMAT_VERSION, Run, head_of, load_run, read_json, results_table
from avfuse.stages.fuse.training.checkpoint import Checkpoint
from avfuse.stages.fuse.training.cost import Cost, measure_resources, training_macs
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides, accepts_setting
from avfuse.stages.fuse.training.trainer import (
    Epoch,
    ParentHeads,
    TrainedHead,
    best_epoch,
    choose_epochs,
    refit_jobs,
    train_jobs,
)
from avfuse.stages.fuse.training.vectorized import group_key, job_groups

FEATURES = ("video", "audio")
"""What can be swept besides settings: the features of a modality."""

TRIAL_SEEDS = 3
"""So many seeds of each row validation picks rows by."""

Pick = Callable[[Mapping[str, float]], Collection[str]]
"""From the mean validation score of each row to the rows that are tested."""

OnEpoch = Callable[[], Any]


class Bar(Protocol):
    """What is used of a tqdm bar that counts epochs."""

    total: float | None
    n: float

    def update(self, n: float | None = 1) -> Any:
        """So many more."""

    def set_postfix(self, **said: Any) -> None:
        """What is at work."""


@dataclass(frozen=True)
class RowJob:
    """One head to train, and where it goes."""

    row: str
    job: TrainingJob

    def is_done(self, folder: Path) -> bool:
        path = folder / self.row / f"seed-{self.job.seed}.json"
        return path.exists() and read_json(path)["key"] == self.job.key


def needs_filter_banks(heads: Sequence[str], training: TrainingOverrides, sweep: Mapping[str, Sequence[str]]) -> bool:
    """Whether any head is trained to reconstruct hidden sound, for which FusionData.banks have to be loaded."""
    every = [training.updated({"masked": value}) for value in sweep.get("masked", ())] or [training]
    return any(each.recipe(head).masked > 0 for each in every for head in heads)


def run_experiment(
    data: FusionData,
    folder: Path,
    heads: Sequence[str],
    seeds: int,
    training: TrainingOverrides,
    described: Mapping[str, Any],
    *,
    sweep: Mapping[str, Sequence[str]] | None = None,
    replace: bool = False,
    pick: Pick | None = None,
    parents: ParentHeads | None = None,
    progress: bool | Bar = True,
) -> Run:
    """Train what is not trained yet, and return all that lies under `folder`.

    `described` goes into run.json as it is (data set, command, versions). sweep: values of settings, and features of
    `video` or `audio`, joined by "+"; every head is trained with every combination of those that mean something to it.
    pick: which rows are refitted and tested with all seeds, by the mean validation score of each over TRIAL_SEEDS; the
    others never see test clips. By default all are. parents: heads that others start from, where several runs have them
    in common. progress: whether a bar is shown, or the bar of what this is a part of.

    Raises UsageError when the folder holds a run with other settings and `replace` is not given, or for a setting that
    no head has.
    """
    sweep = sweep or {}
    for given in [training, *(training.updated({n: v[0]}) for n, v in sweep.items() if v and n not in FEATURES)]:
        given.check(heads)
    every = [row_job for head in heads for row_job in _jobs(head, data, seeds, training, sweep)]
    rows = list(dict.fromkeys(row_job.row for row_job in every))
    for job in (row_job.job for row_job in every if row_job.job.seed == 0):
        job.check()
    parents = parents or ParentHeads()
    parents.expect([row_job.job for row_job in every])
    described = {**described, **_describe(data, training, sweep)}
    _claim(folder, described, rows, replace)

    def train(group: Sequence[RowJob], on_epoch: OnEpoch, checkpoint: Checkpoint) -> None:
        choices = [_read_choice(folder, row_job) for row_job in group] if pick is not None else []
        lacking = [not row_job.is_done(folder) for row_job in group]
        trained = _train(group, [each for each in choices if each is not None], parents, on_epoch, checkpoint)
        for row_job, lacks, (head, cost) in zip(group, lacking, trained, strict=True):
            if lacks:
                _save(folder, row_job, head, described, cost)

    with _bar(progress) as bar:
        if pick is not None:
            choose = partial(_choose, folder, parents)
            trials = [row_job for row_job in every if row_job.job.seed < TRIAL_SEEDS]
            _work(folder, trials, lambda row_job: _read_choice(folder, row_job) is None, choose, bar, "choose")
            picked = pick(_validation_scores(folder, trials))
            every = [row_job for row_job in every if row_job.row in picked]
            others = [row_job for row_job in every if row_job.job.seed >= TRIAL_SEEDS]
            _work(folder, others, lambda row_job: _read_choice(folder, row_job) is None, choose, bar, "choose")
        _work(
            folder, every, lambda row_job: not row_job.is_done(folder), train, bar, "train" if pick is None else "refit"
        )
    shutil.rmtree(folder / ".training", ignore_errors=True)
    run = load_run(folder)
    _write_atomically(folder / "results.csv", results_table(run).to_csv(index=False))
    return run


@contextmanager
def _bar(progress: bool | Bar) -> Iterator[Bar]:
    if not isinstance(progress, bool):
        yield progress
        return
    with tqdm(total=0, unit="epoch", desc="fuse", disable=not progress, delay=0.1) as bar:
        yield bar


def _work(
    folder: Path,
    row_jobs: Sequence[RowJob],
    lacks: Callable[[RowJob], bool],
    work: Callable[[Sequence[RowJob], OnEpoch, Checkpoint], None],
    bar: Bar,
    what: Literal["choose", "refit", "train"],
) -> None:
    """On the companies in which any job lacks something. what: train is both, choose and refit."""
    todo = [
        group
        for group in job_groups(row_jobs, [group_key(row_job.job) for row_job in row_jobs])
        if any(map(lacks, group))
    ]
    passes = 2 if what == "train" else 1
    bar.total = (bar.total or 0) + sum(passes * row_job.job.recipe.epochs for group in todo for row_job in group)
    for group in todo:
        bar.set_postfix(head=_named(group), refresh=False)
        before = bar.n
        key = sha256(",".join([what, *(row_job.job.key for row_job in group)]).encode()).hexdigest()[:16]
        checkpoint = Checkpoint(folder / ".training" / f"{head_of(group[0].row)}-{key}.safetensors", key)
        work(group, bar.update, checkpoint)
        checkpoint.remove()
        bar.update(before + passes * group[0].job.recipe.epochs * len(group) - bar.n)  # some stop early


@dataclass(frozen=True)
class _Choice:
    """A learning curve, and the head's share of the time that it took."""

    curve: list[Epoch]
    seconds: float


def _choose(
    folder: Path, parents: ParentHeads, group: Sequence[RowJob], on_epoch: OnEpoch, checkpoint: Checkpoint
) -> None:
    started = time.perf_counter()
    curves = choose_epochs([row_job.job for row_job in group], on_epoch, checkpoint, parents=parents)
    seconds = (time.perf_counter() - started) / len(group)
    for row_job, curve in zip(group, curves, strict=True):
        path = _choice_path(folder, row_job)
        path.parent.mkdir(parents=True, exist_ok=True)
        choice = {"key": row_job.job.key, "seconds": seconds, "curve": [asdict(epoch) for epoch in curve]}
        _write_atomically(path, json.dumps(choice) + "\n")


def _choice_path(folder: Path, row_job: RowJob) -> Path:
    return folder / row_job.row / f"choice-{row_job.job.seed}.json"


def _read_choice(folder: Path, row_job: RowJob) -> _Choice | None:
    """None where there is none yet, or it depends on something else."""
    path = _choice_path(folder, row_job)
    if not path.exists() or (choice := read_json(path))["key"] != row_job.job.key:
        return None
    return _Choice([Epoch(**epoch) for epoch in choice["curve"]], choice["seconds"])


def _validation_scores(folder: Path, row_jobs: Sequence[RowJob]) -> dict[str, float]:
    """Of each row at the epochs that were chosen, the mean over seeds."""
    scores: dict[str, list[float]] = {}
    for row_job in row_jobs:
        choice = _read_choice(folder, row_job)
        assert choice is not None
        scores.setdefault(row_job.row, []).append(best_epoch(choice.curve).validation_score)
    return {row: float(np.mean(each)) for row, each in scores.items()}


def _jobs(
    head: str, data: FusionData, seeds: int, training: TrainingOverrides, sweep: Mapping[str, Sequence[str]]
) -> Iterator[RowJob]:
    """A head with every combination of the values that mean something to it, and every seed."""
    selected: dict[tuple[str, ...], FusionData] = {(): data}
    for settings in _combinations({name: sweep[name] for name in sweep if accepts_setting(head, name)}):
        its_training = training.updated(settings)
        seen = get_head(head).used_modalities(its_training.options(head))
        for features in _combinations({name: sweep[name] for name in sweep if name in seen}):
            chosen = settings | features
            row = ",".join([head, *(f"{name}={chosen[name].replace('/', '_')}" for name in sweep if name in chosen)])
            if (named := tuple(map("=".join, features.items()))) not in selected:
                selected[named] = data.only({n: expand_names(v.split("+")) for n, v in features.items()})
            for seed in range(seeds):
                yield RowJob(row, TrainingJob.of(head, selected[named], seed, its_training))


def _combinations(values: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    return (dict(zip(values, each, strict=True)) for each in product(*values.values()))


def _named(group: Sequence[RowJob]) -> str:
    rows = list(dict.fromkeys(row_job.row for row_job in group))
    return rows[0] if len(rows) == 1 else f"{head_of(rows[0])} ({len(group)} together)"


def _train(
    group: Sequence[RowJob], choices: Sequence[_Choice], parents: ParentHeads, on_epoch: OnEpoch, checkpoint: Checkpoint
) -> list[tuple[TrainedHead, Cost]]:
    """Side by side, each with what it cost. choices: of each, where they were made before."""
    jobs = [row_job.job for row_job in group]
    in_training = training_macs(jobs[0])
    with measure_resources(jobs[0].data.train.device, len(jobs)) as usage:

        def count() -> None:
            usage.epoch()
            on_epoch()

        if choices:
            every = refit_jobs(jobs, [choice.curve for choice in choices], count, checkpoint, parents=parents)
        else:
            every = train_jobs(jobs, count, checkpoint, parents=parents)
    usage.seconds += sum(choice.seconds for choice in choices)
    return [(trained, Cost.of(job, trained, usage, in_training)) for job, trained in zip(jobs, every, strict=True)]


def _describe(data: FusionData, training: TrainingOverrides, sweep: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    test = data.table.iloc[data.test.cpu().numpy()]
    return {
        "format_version": FORMAT_VERSION,
        "data": data.fingerprint,
        "training": training.as_dict(),
        "sweep": {name: list(values) for name, values in sweep.items()},
        "targets": data.targets.to_dicts(),
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
    }


def _claim(folder: Path, described: dict[str, Any], rows: Sequence[str], replace: bool) -> None:
    """Make the folder this run's. Another run's results are never mixed with it nor silently overwritten."""
    known = folder / "run.json"
    if known.exists() and not replace:
        other = read_json(known)
        differing = [name for name in ("format_version", "data", "training") if other.get(name) != described[name]]
        if differing:
            raise UsageError(
                f"{folder} holds a run with other settings ({_differences(other, described, differing)}): "
                "give this one another name (NAME=..., --name), or replace it (--replace)"
            )
    before = read_json(known).get("rows", []) if known.exists() else []
    folder.mkdir(parents=True, exist_ok=True)
    described["rows"] = sorted(dict.fromkeys([*before, *rows]), key=lambda row: head_names().index(head_of(row)))
    _write_atomically(known, json.dumps(described, indent=2) + "\n")
    if replace:
        for path in folder.glob("*/seed-*.json"):
            one = read_json(path)
            if one["data"] != described["data"] or one["training"] != described["training"]:
                for sibling in path.parent.glob(f"{path.stem}.*"):
                    sibling.unlink()


def _differences(other: dict[str, Any], described: dict[str, Any], names: list[str]) -> str:
    parts = []
    for name in names:
        if name == "training":
            ours, theirs = described[name], other.get(name, {})
            parts += [
                f"{key}: {theirs.get(key)} there, {ours.get(key)} here"
                for key in dict.fromkeys([*ours, *theirs])
                if ours.get(key) != theirs.get(key)
            ]
        else:
            parts.append({"data": "other clips or features", "format_version": "another version"}[name])
    return "; ".join(parts)


def _save(folder: Path, row_job: RowJob, trained: TrainedHead, run: Mapping[str, Any], cost: Cost) -> None:
    """Write one trained head; its JSON comes last and marks it complete."""
    job, data = row_job.job, row_job.job.data
    target = folder / row_job.row
    target.mkdir(parents=True, exist_ok=True)
    stem = target / f"seed-{job.seed}"
    truth = [each[data.test].cpu().numpy() for each in data.truth]
    _save_weights(trained.head, f"{stem}.safetensors")
    if trained.space is not None:
        _save_weights(trained.space, f"{stem}.space.safetensors")
    predictions: dict[str, Any] = {
        "clip_id": _ids(data, data.test),
        "logits": trained.logits,
        **{f"target_{target.name}": each for target, each in zip(data.targets, truth, strict=True)},
        "unlabelled_clip_id": _ids(data, data.unlabelled),
        "unlabelled_logits": trained.unlabelled_logits,
    }
    np.savez_compressed(f"{stem}.npz", **predictions)
    pd.DataFrame([epoch.row() for epoch in trained.curve]).to_csv(f"{stem}.curve.csv", index=False)
    without = {
        f"{data.targets.measure}_without_{name}": evaluate(data.targets, logits, truth)[data.targets.measure]
        for name, logits in trained.without.items()
    }
    described = {
        "key": row_job.job.key,
        "data": run["data"],
        "training": run["training"],
        "swept": dict(part.split("=", 1) for part in row_job.row.split(",")[1:]),
        "recipe": job.recipe.model_dump(),
        "options": job.options.model_dump(),
        "metrics": {"n_test": len(data.test), **evaluate(data.targets, trained.logits, truth), **without},
        "cost": {
            f"validation_{data.targets.selection}": trained.curve[trained.best_epoch - 1].validation_score,
            "epochs": trained.best_epoch,
            **asdict(cost),
            **({} if trained.too_short is None else {"too_short": trained.too_short}),
        },
    }
    _write_atomically(Path(f"{stem}.json"), json.dumps(described, indent=2) + "\n")


def _save_weights(module: nn.Module, file: str) -> None:
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, file)


def _ids(data: FusionData, indices: Tensor) -> NDArray[np.bytes_]:
    return np.array(
        [clip_id.encode() for clip_id in data.table["clip_id"].iloc[indices.cpu().numpy()]], dtype=np.bytes_
    )


def _write_atomically(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)
