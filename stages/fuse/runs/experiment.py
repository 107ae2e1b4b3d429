"""Heads, sweeps and seeds trained into the folder of a run; what is complete there is not trained again."""

import json
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
from torch import Tensor
from tqdm import tqdm

from avfuse.features.feature_names import expand_names
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.evaluation.metrics import evaluate
from avfuse.stages.fuse.heads import get_head
from avfuse.stages.fuse.runs.run_folder import FORMAT_VERSION, Run, RunFolder, head_of, read_if_current, write_json
from avfuse.stages.fuse.training.checkpoint import TrainingCheckpoint
from avfuse.stages.fuse.training.cost import Cost
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.learning_curve import Epoch, best_epoch
from avfuse.stages.fuse.training.macs import training_macs
from avfuse.stages.fuse.training.overrides import TrainingOverrides, accepts_setting
from avfuse.stages.fuse.training.resource_usage import measure_resources
from avfuse.stages.fuse.training.trainer import ParentHeads, TrainedHead, choose_epochs, refit_jobs, train_jobs
from avfuse.stages.fuse.training.vectorized import group_key, job_groups

FEATURES = ("video", "audio")
"""Modalities whose features can be swept like settings."""

TRIAL_SEEDS = 3
"""Seeds of each row by which validation selects rows."""

Pick = Callable[[Mapping[str, float]], Collection[str]]
"""Mean validation score per row -> the rows to test."""

OnEpoch = Callable[[], Any]


class Bar(Protocol):
    """The part of tqdm that counting epochs uses."""

    total: float | None
    n: float

    def update(self, n: float | None = 1) -> Any:
        """Add epochs."""

    def set_postfix(self, **values: Any) -> None:
        """Show the head in training."""


@dataclass(frozen=True)
class RowJob:
    """One head to train, and the row that it belongs to."""

    row: str
    job: TrainingJob


def needs_filter_banks(heads: Sequence[str], training: TrainingOverrides, sweep: Mapping[str, Sequence[str]]) -> bool:
    """Whether any head is trained to reconstruct hidden sound, for which FusionData.banks have to be loaded."""
    trainings = [training.updated({"masked": value}) for value in sweep.get("masked", ())] or [training]
    return any(swept.recipe(head).masked > 0 for swept in trainings for head in heads)


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
    """Train what is missing in `folder`, and return the whole run that it holds.

    Args:
        described: goes into run.json as it is (data set, command, versions).
        sweep: values of settings, and features of `video` or `audio`, joined by "+"; every head is trained with every
            combination of those that it accepts.
        replace: whether heads with other data or settings are removed.
        pick: selects the rows that are refitted and tested with all seeds, by the mean validation score of each over
            TRIAL_SEEDS; the others never see test clips. By default all are.
        parents: heads that others start from, where several runs share them.
        progress: whether to show a bar, or the bar of what this is a part of.

    Raises:
        UsageError: the folder holds a run with other settings and `replace` is not given, or no head has a setting.
    """
    sweep = sweep or {}
    swept = {name: values[0] for name, values in sweep.items() if values and name not in FEATURES}
    for overrides in [training, *(training.updated({name: value}) for name, value in swept.items())]:
        overrides.check(heads)
    row_jobs = [row_job for head in heads for row_job in _jobs(head, data, seeds, training, sweep)]
    for row_job in row_jobs:
        if row_job.job.seed == 0:
            row_job.job.check()
    parents = parents or ParentHeads()
    parents.expect([row_job.job for row_job in row_jobs])
    run_folder = RunFolder(folder)
    metadata = {
        **described,
        "format_version": FORMAT_VERSION,
        "data": data.fingerprint,
        "training": training.as_dict(),
        "sweep": {name: list(values) for name, values in sweep.items()},
        **describe_data(data),
    }
    run_folder.claim(metadata, list(dict.fromkeys(row_job.row for row_job in row_jobs)), replace)

    def is_missing(row_job: RowJob) -> bool:
        return read_if_current(run_folder.seed(row_job.row, row_job.job.seed).metadata, row_job.job.key) is None

    def has_no_choice(row_job: RowJob) -> bool:
        return _read_choice(run_folder, row_job) is None

    def train(group: Sequence[RowJob], on_epoch: OnEpoch, checkpoint: TrainingCheckpoint) -> None:
        choices = [_read_choice(run_folder, row_job) for row_job in group] if pick is not None else []
        missing = [is_missing(row_job) for row_job in group]
        trained = _train(group, [choice for choice in choices if choice is not None], parents, on_epoch, checkpoint)
        for row_job, to_save, (head, cost) in zip(group, missing, trained, strict=True):
            if to_save:
                _save(run_folder, row_job, head, metadata, cost)

    with _bar(progress) as bar:
        if pick is not None:
            choose = partial(_choose, run_folder, parents)
            trials = [row_job for row_job in row_jobs if row_job.job.seed < TRIAL_SEEDS]
            _run_groups(run_folder, trials, has_no_choice, choose, bar, "choose")
            picked = pick(_validation_scores(run_folder, trials))
            row_jobs = [row_job for row_job in row_jobs if row_job.row in picked]
            others = [row_job for row_job in row_jobs if row_job.job.seed >= TRIAL_SEEDS]
            _run_groups(run_folder, others, has_no_choice, choose, bar, "choose")
        _run_groups(run_folder, row_jobs, is_missing, train, bar, "train" if pick is None else "refit")
    return run_folder.finish()


@contextmanager
def _bar(progress: bool | Bar) -> Iterator[Bar]:
    if not isinstance(progress, bool):
        yield progress
        return
    with tqdm(total=0, unit="epoch", desc="fuse", disable=not progress, delay=0.1) as bar:
        yield bar


def _run_groups(
    folder: RunFolder,
    row_jobs: Sequence[RowJob],
    is_missing: Callable[[RowJob], bool],
    work: Callable[[Sequence[RowJob], OnEpoch, TrainingCheckpoint], None],
    bar: Bar,
    stage: Literal["choose", "refit", "train"],
) -> None:
    """Do `work` on each group with a missing job. stage: `train` is both, choose and refit."""
    todo = [
        group
        for group in job_groups(row_jobs, [group_key(row_job.job) for row_job in row_jobs])
        if any(map(is_missing, group))
    ]
    passes = 2 if stage == "train" else 1
    bar.total = (bar.total or 0) + sum(passes * row_job.job.recipe.epochs for group in todo for row_job in group)
    for group in todo:
        bar.set_postfix(head=_label(group), refresh=False)
        before = bar.n
        key = sha256(",".join([stage, *(row_job.job.key for row_job in group)]).encode()).hexdigest()[:16]
        checkpoint = TrainingCheckpoint(folder.checkpoints / f"{head_of(group[0].row)}-{key}.safetensors", key)
        work(group, bar.update, checkpoint)
        checkpoint.remove()
        bar.update(before + passes * group[0].job.recipe.epochs * len(group) - bar.n)  # some stop early


@dataclass(frozen=True)
class _Choice:
    """A learning curve to choose the epoch by, and the head's share of the time that it took."""

    curve: list[Epoch]
    seconds: float


def _choose(
    folder: RunFolder, parents: ParentHeads, group: Sequence[RowJob], on_epoch: OnEpoch, checkpoint: TrainingCheckpoint
) -> None:
    started = time.perf_counter()
    curves = choose_epochs([row_job.job for row_job in group], on_epoch, checkpoint, parents=parents)
    seconds = (time.perf_counter() - started) / len(group)
    for row_job, curve in zip(group, curves, strict=True):
        path = folder.choice(row_job.row, row_job.job.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        choice = {"key": row_job.job.key, "seconds": seconds, "curve": [asdict(epoch) for epoch in curve]}
        write_json(path, choice, indent=None)


def _read_choice(folder: RunFolder, row_job: RowJob) -> _Choice | None:
    """None where it is missing or depends on something else."""
    choice = read_if_current(folder.choice(row_job.row, row_job.job.seed), row_job.job.key)
    return None if choice is None else _Choice([Epoch(**epoch) for epoch in choice["curve"]], choice["seconds"])


def _validation_scores(folder: RunFolder, row_jobs: Sequence[RowJob]) -> dict[str, float]:
    """The mean score of each row over seeds, at the chosen epochs."""
    scores: dict[str, list[float]] = {}
    for row_job in row_jobs:
        choice = _read_choice(folder, row_job)
        assert choice is not None
        scores.setdefault(row_job.row, []).append(best_epoch(choice.curve).validation_score)
    return {row: float(np.mean(of_seeds)) for row, of_seeds in scores.items()}


def _jobs(
    head: str, data: FusionData, seeds: int, training: TrainingOverrides, sweep: Mapping[str, Sequence[str]]
) -> Iterator[RowJob]:
    """A head with every combination of the swept values that it accepts, and every seed."""
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
    return (dict(zip(values, combination, strict=True)) for combination in product(*values.values()))


def _label(group: Sequence[RowJob]) -> str:
    rows = list(dict.fromkeys(row_job.row for row_job in group))
    return rows[0] if len(rows) == 1 else f"{head_of(rows[0])} ({len(group)} together)"


def _train(
    group: Sequence[RowJob],
    choices: Sequence[_Choice],
    parents: ParentHeads,
    on_epoch: OnEpoch,
    checkpoint: TrainingCheckpoint,
) -> list[tuple[TrainedHead, Cost]]:
    """Train a group, with the cost of each head. choices: of each, where the epoch was chosen before."""
    jobs = [row_job.job for row_job in group]
    in_training = training_macs(jobs[0])
    with measure_resources(jobs[0].data.train.device, len(jobs)) as usage:

        def count() -> None:
            usage.epoch()
            on_epoch()

        if choices:
            heads = refit_jobs(jobs, [choice.curve for choice in choices], count, checkpoint, parents=parents)
        else:
            heads = train_jobs(jobs, count, checkpoint, parents=parents)
    usage.seconds += sum(choice.seconds for choice in choices)
    return [(trained, Cost.of(job, trained, usage, in_training)) for job, trained in zip(jobs, heads, strict=True)]


def describe_data(data: FusionData) -> dict[str, Any]:
    """The targets, test groups, clips and features that numbers depend on, for the JSON of a run."""
    return {
        "targets": data.targets.to_dicts(),
        "test_groups": data.table["group"].iloc[data.test.cpu().numpy()].tolist(),
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


def _save(folder: RunFolder, row_job: RowJob, trained: TrainedHead, run: Mapping[str, Any], cost: Cost) -> None:
    job, data = row_job.job, row_job.job.data
    truth = [of_target[data.test].cpu().numpy() for of_target in data.truth]
    predictions = {
        "clip_id": _ids(data, data.test),
        "logits": trained.logits,
        **{f"target_{target.name}": of_target for target, of_target in zip(data.targets, truth, strict=True)},
        "unlabelled_clip_id": _ids(data, data.unlabelled),
        "unlabelled_logits": trained.unlabelled_logits,
    }
    without = {
        f"{data.targets.measure}_without_{name}": evaluate(data.targets, logits, truth)[data.targets.measure]
        for name, logits in trained.without.items()
    }
    metadata = {
        "key": job.key,
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
    curve = pd.DataFrame([epoch.row() for epoch in trained.curve])
    folder.seed(row_job.row, job.seed).write(trained.head, trained.space, predictions, curve, metadata)


def _ids(data: FusionData, indices: Tensor) -> NDArray[np.bytes_]:
    return np.array(
        [clip_id.encode() for clip_id in data.table["clip_id"].iloc[indices.cpu().numpy()]], dtype=np.bytes_
    )
