"""Stage two on the device: heads come out as on the CPU, and in one pass as one by one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.feature_names import resolve
from avfuse.manifests import Manifest, Target
from avfuse.stages.fuse.analysis.attribution import explain
from avfuse.stages.fuse.analysis.robustness import robustness
from avfuse.stages.fuse.config import Recipe
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.heads import get_head, head_names
from avfuse.stages.fuse.training import checkpoint, streamed_batches, vectorized
from avfuse.stages.fuse.training.auxiliary_losses import AuxiliaryLosses
from avfuse.stages.fuse.training.checkpoint import TrainingCheckpoint
from avfuse.stages.fuse.training.head_trainer import HeadTrainer, predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import TrainedHead, train_head, train_jobs

CLASSES, CLIPS = 3, 96
VIDEO = ("lite:frames", (5, 16))
IMAGES = ("lite:mfcc", (16,))
GRID = ("lite:fbank:tokens", (128, 16))
BANKS = ("audio:fbank", (1024, 128))

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "mat_lite": {"dim": 16},
    "mmt": {"dim": 16, "heads": 2},
    "mat": {"epochs": 1},
    "bottleneck": {"dim": 16, "heads": 2},
    "crossattn": {"dim": 16, "heads": 2},
    "alpha": {"dim": 16, "heads": 2},
    "mlp": {"hidden": "32x16"},
    "audio": {"hidden": "32x16"},
    "video": {"hidden": "32x16"},
    "average": {"hidden": "32x16"},
}
ON_GRID, ON_BANKS = ("mat_lite", "mmt"), ("mat",)
HEADS = [pytest.param(name, marks=() if name in ("mlp", "crossattn") else pytest.mark.slow) for name in head_names()]
IN_ONE_PASS = [
    pytest.param(name, marks=() if name == "mlp" else pytest.mark.slow)
    for name in head_names()
    if not get_head(name).fits_without_epochs and name not in ON_BANKS
]


def sound_of(head: str) -> tuple[str, tuple[int, ...]]:
    return BANKS if head in ON_BANKS else GRID if head in ON_GRID else IMAGES


def made_up(audio: tuple[str, tuple[int, ...]] = IMAGES, lacking: float = 0.1) -> FusionData:
    """Classes that both modalities tell, with some clips that lack one of them, on the CPU."""
    clips = {IMAGES: CLIPS, GRID: CLIPS // 4, BANKS: CLIPS // 8}[audio]
    generator = np.random.default_rng(0)
    labels = np.arange(clips) % CLASSES
    modalities = {}
    for name, (feature, shape) in (("video", VIDEO), ("audio", audio)):
        spec = resolve([feature])[0].model_copy(update={"shape": shape})
        rows = generator.standard_normal((clips, *shape), dtype=np.float32)
        rows += generator.standard_normal((CLASSES, *shape), dtype=np.float32)[labels]
        present = generator.random(clips) >= lacking
        modalities[name] = Modality.of(FeatureLayout.of(name, [spec]), {spec.key: rows}, present, "cpu")
    splits = np.array(["train", "train", "val", "test"])[np.arange(clips) // CLASSES % 4]
    names = [f"class{number}" for number in range(CLASSES)]
    return FusionData.from_arrays(modalities, labels, names, splits, np.arange(clips) // 2)


def with_banks(data: FusionData) -> FusionData:
    """The clips' filter banks, which masked learning hides parts of."""
    generator = np.random.default_rng(1)
    rows = torch.from_numpy(generator.standard_normal((len(data.table), 1024, 128)).astype(np.float16))
    return replace(data, banks=FilterBanks("key", rows, data.modalities["audio"].present))


def on(device: str, data: FusionData) -> FusionData:
    def there(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    modalities = {}
    for name, modality in data.modalities.items():
        assert isinstance(modality, Modality)
        modalities[name] = replace(modality, tokens=there(modality.tokens), present=there(modality.present))
    banks = data.banks and FilterBanks(data.banks.key, there(data.banks.rows), there(data.banks.present))
    indices = {name: there(getattr(data, name)) for name in ("train", "validation", "test", "unlabelled")}
    return replace(data, modalities=modalities, truth=tuple(map(there, data.truth)), banks=banks, **indices)


def asked(head: str, **more: Any) -> TrainingOverrides:
    """Two short epochs in single precision, without dropout: each device draws numbers of its own."""
    own: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "precision": "float32", "dropout": 0.0}
    own |= {**SETTINGS.get(head, {}), "drop_path": 0.0, **more}
    known = {*Recipe.model_fields, *get_head(head).Options.model_fields}
    return TrainingOverrides(**{name: value for name, value in own.items() if name in known})


def assert_alike(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-3) -> None:
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()))


@pytest.mark.parametrize("head", HEADS)
def test_a_head_trained_on_the_device_is_the_one_trained_on_the_cpu(head: str, device: str) -> None:
    if head in ON_BANKS and device == "cpu":
        pytest.skip("25 G multiplications a clip: on a CPU they take minutes, and say nothing of a GPU")
    data = made_up(sound_of(head))
    expected, found = (train_head(head, on(each, data), 0, asked(head)) for each in ("cpu", device))
    assert all(parameter.device == torch.device(device) for parameter in found.head.parameters())
    assert_alike(found.logits, expected.logits)
    for name, logits in expected.without.items():
        assert_alike(found.without[name], logits)
    losses = [[epoch.validation_loss for epoch in each.curve] for each in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=2e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", IN_ONE_PASS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_heads_side_by_side_come_out_as_alone(
    head: str, precision: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = on(device, made_up(sound_of(head)))
    jobs = [
        TrainingJob.of(head, data, seed, asked(head, dropout=0.1, precision=precision, l1=1e-5)) for seed in range(3)
    ]
    side_by_side, alone = (train_group(jobs, each, monkeypatch) for each in (True, False))
    tolerance = 2e-3 if precision == "float32" else 0.1
    for one, other in zip(side_by_side, alone, strict=True):
        assert_alike(one.logits, other.logits, tolerance)


def train_group(jobs: list[TrainingJob], together: bool, monkeypatch: pytest.MonkeyPatch) -> list[TrainedHead]:
    monkeypatch.setattr(vectorized, "is_faster_vmapped", lambda head, device: together)
    return train_jobs(jobs)


@pytest.mark.parametrize("head", ["mlp", pytest.param("crossattn", marks=pytest.mark.slow)])
def test_heads_learn_in_bfloat16(head: str, device: str) -> None:
    data = on(device, made_up())
    half, single = (
        train_head(head, data, 0, asked(head, epochs=6, precision=precision)) for precision in ("bfloat16", "float32")
    )
    assert all(parameter.dtype == torch.float32 for parameter in half.head.parameters())
    assert half.curve[-1].train_loss < half.curve[0].train_loss
    np.testing.assert_allclose(half.curve[-1].train_loss, single.curve[-1].train_loss, rtol=0.1)


@pytest.mark.parametrize(
    "losses",
    [{"avc": 0.5, "imc": 0.1}, {"avm": 0.5}, {"avm": 0.5, "negatives": 1, "balanced": "3x4"}],
    ids=lambda losses: "+".join(losses),
)
@pytest.mark.slow
def test_losses_beside_classification_are_followed(losses: Mapping[str, Any], device: str) -> None:
    trained = train_head("crossattn", on(device, made_up()), 0, asked("crossattn", **losses, epochs=4, lr=3e-3))
    assert np.isfinite(trained.logits).all()
    assert trained.curve[-1].train_loss < trained.curve[0].train_loss


@pytest.mark.parametrize("mask", ["segments", "random"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.slow
def test_hidden_sound_is_reconstructed(mask: str, precision: str, device: str) -> None:
    data = on(device, with_banks(made_up(GRID)))
    training = asked("bottleneck", masked=0.1, avc=0.1, mask=mask, precision=precision, epochs=2)
    job = TrainingJob.of("bottleneck", data, 0, training)
    job.check()
    trained = train_jobs([job])[0]
    assert trained.too_short == 0
    assert np.isfinite([epoch.train_loss for epoch in trained.curve]).all()


def test_contrast_is_that_of_the_cpu(device: str) -> None:
    values = []
    for each in ("cpu", device):
        data = on(each, made_up())
        training = asked("crossattn", avc=0.5, imc=0.1)
        recipe = training.recipe("crossattn")
        inputs = HeadInputs.of("crossattn", data, data.train, training.options("crossattn"), recipe)
        trainer = HeadTrainer(inputs, data.truth, recipe, seed=0)
        assert isinstance(trainer.auxiliary, AuxiliaryLosses)
        losses = trainer.losses(inputs.evaluation_batch(data.train[:16]))
        values.append([losses[name].item() for name in ("total", "ce", "avc", "imc")])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-3)


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        """Somebody pulled the plug."""

    def kill_after(epochs: int) -> Callable[[], None]:
        left = [epochs]

        def on_epoch() -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        return on_epoch

    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(vectorized, "is_faster_vmapped", lambda head, device: True)
    data = on(device, made_up())
    jobs = [TrainingJob.of("mlp", data, seed, asked("mlp", dropout=0.2, epochs=6)) for seed in range(2)]
    whole = train_jobs(jobs)
    with pytest.raises(Killed):
        train_jobs(jobs, kill_after(7), TrainingCheckpoint(tmp_path / "kept", "key"))
    again = train_jobs(jobs, checkpoint=TrainingCheckpoint(tmp_path / "kept", "key"))
    for one, other in zip(whole, again, strict=True):
        assert one.best_epoch == other.best_epoch
        assert_alike(other.logits, one.logits, 1e-4)


def cached(folder: Path, clips: int = 60) -> Manifest:
    """Features in several shards, of clips whose media are not there; every seventh has no sound."""
    generator = np.random.default_rng(0)
    numbers = np.arange(clips)
    names = tuple(f"class{number}" for number in range(CLASSES))
    table = pd.DataFrame(
        {
            "clip_id": [f"clip{number}" for number in numbers],
            "path": [f"{number}.avi" for number in numbers],
            "start": np.nan,
            "end": np.nan,
            "label": [names[number % CLASSES] for number in numbers],
            "split": np.select([numbers % 10 >= 8, numbers % 10 >= 6], ["test", "val"], "train"),
            "group": [f"group{number}" for number in numbers],
        }
    )
    manifest = Manifest("set", "set", folder, table, targets=(Target("label", names),))
    every = manifest.clips()
    for name, shape in (VIDEO, IMAGES):
        spec = resolve([name])[0].model_copy(update={"shape": shape})
        points = generator.standard_normal((CLASSES, *shape))
        for first in range(0, clips, 16):
            some = numbers[first : first + 16]
            silent = [number for number in some if name != VIDEO[0] and number % 7 == 0]
            heard = [number for number in some if number not in silent]
            rows = [points[number % CLASSES] + generator.standard_normal(shape) for number in heard]
            result = ChunkResult(spec, done=[(every[number], MISSING) for number in heard], data=rows)
            result.no_audio += [(every[number], MISSING) for number in silent]
            FeatureStore(folder, "set", spec).commit(result)
    return manifest


def test_features_that_are_streamed_train_the_same_heads(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed, an epoch has an order of its own; that of a single batch changes no sum."""
    manifest = cached(tmp_path)
    names = {"video": [VIDEO[0]], "audio": [IMAGES[0]]}
    in_memory, streamed = (load_data(manifest, tmp_path, names, device, memory_bytes=limit) for limit in (None, 0))
    assert set(streamed.streamed) == {"video", "audio"}
    one, other = (train_head("mlp", each, 0, asked("mlp", batch_size=1000)) for each in (in_memory, streamed))
    assert_alike(other.logits, one.logits)
    monkeypatch.setattr(streamed_batches, "EVALUATION_CLIPS", 4)  # many batches on their way at once
    options, recipe = asked("mlp").options("mlp"), asked("mlp").recipe("mlp")
    inputs = [HeadInputs.of("mlp", each, each.train, options, recipe) for each in (in_memory, streamed)]
    logits = [predict(one.head, each, in_memory.test).cpu() for each in inputs]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grad-cam", "attention"])
def test_where_a_head_looks_is_what_the_cpu_says(method: Any, device: str) -> None:
    data, maps = made_up(GRID), []
    for each in ("cpu", device):
        there = on(each, data)
        job = TrainingJob.of("crossattn", there, 0, asked("crossattn"))
        head = train_jobs([job])[0].head
        maps.append(explain(job, [head], there.test[:8], method).maps)
    for name, expected in maps[0].items():
        np.testing.assert_allclose(maps[1][name], expected, rtol=0.02, atol=1e-3)


@pytest.mark.slow
def test_what_heads_withstand_is_measured(device: str) -> None:
    data = on(device, made_up())
    job = TrainingJob.of("mlp", data, 0, asked("mlp"))
    table = robustness(job, [train_jobs([job])[0].head]).table
    assert {"dropped", "noise", "same class", "other class"} <= set(table["change"])
    assert table["accuracy"].between(0, 1).all()
