"""Auxiliary losses as a whole: recipes, checkpoints, what is rejected, missing modalities, gradients."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid_data import (
    DIM,
    EVERYTHING,
    SMALL,
    assert_same,
    losses_of,
    make_trainer,
    reconstruction_errors,
    train_batch,
)

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.heads import ModalityShape, head_names
from avfuse.stages.fuse.losses.masked_reconstruction import MaskedReconstruction
from avfuse.stages.fuse.runs.experiment import needs_filter_banks, run_experiment
from avfuse.stages.fuse.training import auxiliary_losses as module
from avfuse.stages.fuse.training.checkpoint import TrainingCheckpoint
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.vectorized import train_epochs, trains_vmapped

ONE_BY_ONE = [
    {"avc": 0.5},
    {"avc": 0.5, "contrast_labels": True},
    {"imc": 0.5},
    {"avm": 0.5},
    {"avc": 1e-9, "avm": 0.5},
    {"masked": 0.5},
    {"masked": 0.5, "mask": "random"},
]


@pytest.mark.parametrize("settings", ONE_BY_ONE, ids=str)
def test_each_loss_changes_what_is_learned(grid_data: FusionData, settings: dict[str, Any]) -> None:
    plain, trainer = make_trainer(grid_data), make_trainer(grid_data, **settings)
    assert_same(plain.head.state_dict(), trainer.head.state_dict())  # what an objective needs comes after the head
    train_epochs([plain])
    (losses,) = train_epochs([trainer])
    name = [each for each in EVERYTHING if each in settings][-1]
    assert losses.parts[name] > 0
    weights = torch.nn.utils.parameters_to_vector
    assert (weights(plain.head.parameters()) - weights(trainer.head.parameters())).abs().max() > 1e-3
    fresh = make_trainer(grid_data, **settings)
    assert trainer.auxiliary is not None
    assert fresh.auxiliary is not None
    for before, after in zip(fresh.auxiliary.parameters(), trainer.auxiliary.parameters(), strict=True):
        assert not torch.equal(before, after)


def test_the_parts_weighted_are_what_is_followed(grid_data: FusionData) -> None:
    trainer = make_trainer(grid_data, **EVERYTHING)
    (losses,) = train_epochs([trainer])
    assert list(losses.parts) == ["ce", *EVERYTHING]
    weighted = losses.parts["ce"] + sum(weight * losses.parts[name] for name, weight in EVERYTHING.items())
    assert losses.total == pytest.approx(weighted, rel=1e-5)
    (plain,) = train_epochs([make_trainer(grid_data)])
    assert plain.parts == {}


@pytest.mark.parametrize("mask", ["segments", "random"])
def test_all_that_is_drawn_comes_from_the_heads_own_stream(lacking: FusionData, mask: str) -> None:
    one, other = (make_trainer(lacking, seed=3, modality_dropout=0.3, mask=mask, **EVERYTHING) for _ in range(2))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    train_epochs([one])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    train_epochs([make_trainer(lacking, seed=4, **EVERYTHING)])
    train_epochs([other])
    assert_same(one.state(), other.state())
    another = make_trainer(lacking, seed=3, modality_dropout=0.3, mask=mask, **EVERYTHING)
    another.augment_rng.manual_seed(99)
    train_epochs([another])
    assert not torch.equal(another.head.classifier[1].weight, one.head.classifier[1].weight)


@pytest.mark.parametrize("settings", [EVERYTHING, {"avm": 0.5, "masked": 0.1, "mask": "random"}], ids=str)
def test_what_was_broken_off_goes_on_with_the_same_bytes(
    lacking: FusionData, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole, broken = (make_trainer(lacking, head="bottleneck", blocks=1, **settings) for _ in range(2))
    for _ in range(3):
        train_epochs([whole])
    train_epochs([broken])
    TrainingCheckpoint(tmp_path / "state", "key").save(broken.state(), {})
    saved = TrainingCheckpoint(tmp_path / "state", "key").load()
    assert saved is not None
    resumed = make_trainer(lacking, seed=5, head="bottleneck", blocks=1, **settings)
    resumed.load(saved[0])
    for _ in range(2):
        train_epochs([resumed])
    assert_same(whole.state(), resumed.state())
    assert any(name.startswith("objective.") for name in whole.state())


def test_heads_with_an_objective_train_one_by_one(grid_data: FusionData, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainingOverrides(**SMALL)
    monkeypatch.setattr("avfuse.stages.fuse.training.vectorized.is_faster_vmapped", lambda head, device: True)
    options = training.options("crossattn")
    assert trains_vmapped("crossattn", grid_data, options, training.recipe("crossattn"))
    assert not trains_vmapped("crossattn", grid_data, options, training.updated({"imc": 0.1}).recipe("crossattn"))
    together, alone = ([make_trainer(grid_data, seed=seed, **EVERYTHING) for seed in (0, 1)] for _ in range(2))
    train_epochs(together)
    for one, other in zip(together, alone, strict=True):
        train_epochs([other])
        assert_same(one.state(), other.state())


@pytest.mark.parametrize("name", [name for name in head_names() if name not in ("crossattn", "bottleneck")])
@pytest.mark.parametrize("loss", ["avc", "avm", "masked"])
def test_heads_that_give_not_what_a_loss_needs_are_refused(grid_data: FusionData, name: str, loss: str) -> None:
    if name == "mmt" and loss != "masked":
        return  # gives it
    training = TrainingOverrides(**{loss: 0.1})
    what = {"avc": "vector of each modality before", "avm": "vector of each modality after", "masked": "fused token"}
    with pytest.raises(UsageError) as caught:
        module.check_auxiliary_losses(
            name, grid_data.shapes, grid_data.targets, training.options(name), training.recipe(name), grid_data.banks
        )
    message = str(caught.value)
    assert "\n" not in message
    if name != "mat":  # takes filter banks, and says so first
        assert f"head '{name}' gives no {what[loss]}" in message
        assert f"{loss} needs a head that does, such as crossattn or bottleneck" in message


def test_sound_in_no_known_grid_is_refused(grid_data: FusionData, make_data: Callable[..., FusionData]) -> None:
    pooled = replace(make_data(clips_per_class=10), banks=grid_data.banks)
    with pytest.raises(UsageError, match=r"audio tokens in a grid: AUDIO=lite:fbank:tokens"):
        make_trainer(pooled, masked=0.1)
    squares = {**grid_data.shapes, "audio": ModalityShape(196, DIM, 0, (14, 14))}
    with pytest.raises(UsageError, match=r"14x14: choose features with one of 12x101, 6x50, 4x32"):
        MaskedReconstruction(squares, {"video": 4, "audio": 4}, "segments", grid_data.banks)


def test_masked_learning_without_banks_is_refused(grid_data: FusionData) -> None:
    with pytest.raises(UsageError, match="needs the clips' filter banks"):
        make_trainer(replace(grid_data, banks=None), masked=0.1)
    make_trainer(replace(grid_data, banks=None), avc=0.5)


def test_a_run_is_refused_before_anything_is_trained(grid_data: FusionData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="head 'mlp' gives no vector"):
        run_experiment(
            grid_data, tmp_path / "run", ["crossattn", "mlp"], 1, TrainingOverrides(avc=0.5), {}, progress=False
        )
    assert not (tmp_path / "run").exists()


def test_whether_banks_are_read_is_known_from_what_was_asked() -> None:
    heads = ["mlp", "crossattn"]
    assert not needs_filter_banks(heads, TrainingOverrides(avc=0.5), {})
    assert needs_filter_banks(heads, TrainingOverrides(masked="0.01"), {})
    assert needs_filter_banks(heads, TrainingOverrides(), {"masked": ["0", "0.01"], "lr": ["1e-3"]})
    assert not needs_filter_banks(heads, TrainingOverrides(masked="0.01"), {"masked": ["0"]})


@pytest.mark.parametrize("settings", [EVERYTHING, {**EVERYTHING, "mask": "random", "contrast_labels": True}], ids=str)
def test_what_a_clip_lacks_is_never_read(lacking: FusionData, settings: dict[str, Any]) -> None:
    results = []
    for value in (torch.nan, 5.0):
        assert lacking.banks is not None
        banks = lacking.banks.rows.clone()
        banks[~lacking.banks.present] = value
        trainer = make_trainer(
            replace(lacking, banks=replace(lacking.banks, rows=banks)), modality_dropout=0.2, **settings
        )
        for name, rows in trainer.inputs.stored.items():
            rows[~lacking.modalities[name].present] = value
        batch = train_batch(trainer, clips=24)
        assert all(mask is not None and not mask.all() for mask in batch.present.values())
        losses = losses_of(trainer, batch)
        assert all(loss.isfinite() for loss in losses.values())
        losses["total"].backward()
        assert trainer.auxiliary is not None
        gradients = {
            name: parameter.grad
            for part in (trainer.head, trainer.auxiliary)
            for name, parameter in part.named_parameters()
            if parameter.grad is not None
        }
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        results.append({**losses, **gradients})
        train_epochs([trainer])
        assert all(parameter.isfinite().all() for parameter in trainer.head.parameters())
    assert_same(*results)


def test_a_data_set_without_sound_still_trains(grid_data: FusionData) -> None:
    trainer = make_trainer(grid_data, without="audio", **EVERYTHING)
    (losses,) = train_epochs([trainer])
    assert losses.parts["avc"] == losses.parts["avm"] == 0
    assert losses.parts["masked"] > 0.5
    assert trainer.auxiliary is not None
    errors = reconstruction_errors(trainer, train_batch(trainer))
    assert errors["audio"] == 0 < errors["video"]
    assert all(parameter.isfinite().all() for parameter in trainer.head.parameters())


@pytest.mark.parametrize("settings", [EVERYTHING, {**EVERYTHING, "mask": "random", "contrast_labels": True}], ids=str)
def test_gradients_are_those_of_finite_differences(lacking: FusionData, settings: dict[str, Any]) -> None:
    """Along a random direction of each module's weights, everything drawn alike."""
    trainer = make_trainer(lacking, head="bottleneck", blocks=1, **settings)
    assert trainer.auxiliary is not None
    trainer.head.double(), trainer.auxiliary.double()
    whole = train_batch(trainer, clips=12)
    batch = replace(whole, prepared={name: each.double() for name, each in whole.prepared.items()})
    losses_of(trainer, batch)["total"].backward()
    source = torch.Generator().manual_seed(0)
    for part in (trainer.head.project, trainer.head.exchange, trainer.auxiliary):
        weights = [each for each in part.parameters() if each.grad is not None]
        direction = [torch.randn(each.shape, generator=source, dtype=torch.float64) for each in weights]
        slope = sum((each.grad * step).sum() for each, step in zip(weights, direction, strict=True))
        values = []
        with torch.no_grad():
            for size in (1e-6, -1e-6):
                for each, step in zip(weights, direction, strict=True):
                    each += size * step
                values.append(losses_of(trainer, batch)["total"].item())
                for each, step in zip(weights, direction, strict=True):
                    each -= size * step
        assert abs(slope) > 1e-3
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope.item(), rel=1e-4)


def test_half_precision_is_for_the_heads_passes_alone(grid_data: FusionData) -> None:
    trainer = make_trainer(grid_data, avc=0.5, precision="bfloat16")
    assert trainer.auxiliary is not None
    batch = train_batch(trainer)
    outputs = trainer.head.eval()(batch.prepared, batch.present)
    labels = grid_data.truth[0][batch.index]
    whole = trainer.auxiliary(trainer.head, batch, outputs, labels, trainer.augment_rng)
    with torch.autocast("cpu", torch.bfloat16):
        half = trainer.auxiliary(trainer.head, batch, outputs, labels, trainer.augment_rng)
    assert_same(whole, half)
    (losses,) = train_epochs([make_trainer(grid_data, precision="bfloat16", **EVERYTHING)])
    assert np.isfinite(losses.total)
