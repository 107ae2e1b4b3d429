"""Made-up clips with audio tokens in a grid and filter banks, and trainers of heads with auxiliary losses."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avfuse.features.feature_names import resolve
from avfuse.features.inputs.filter_bank import HALF_RANGE, MEAN
from avfuse.stages.fuse.data.audio_masking import AUDIO_GRIDS
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.heads.dropout import GeneratorMasks, dropout_source
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadBatch, HeadInputs
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.vectorized import train_epochs

DIM, FRAMES, FACTORS, CLASSES, CLS = 16, 5, 6, 3, 2
GRID = AUDIO_GRIDS[2]
PADDING = -MEAN / HALF_RANGE
SMALL = {"dim": 16, "heads": 2, "dropout": 0.1, "batch_size": 16, "epochs": 4}
EVERYTHING = {"avc": 0.5, "imc": 0.1, "avm": 0.1, "masked": 0.1}


def make_grid_data(clips: int = 48, missing: float = 0.0, seed: int = 0) -> FusionData:
    """Clips of a few factors each, which its frames, its sound's tokens and its filter bank all tell of; the class is
    the largest of the first three. Sound is the same bands all along, in every token's patch alike; a clip's length
    varies, and one clip is almost nothing."""
    chance = np.random.default_rng(seed)
    factors = chance.standard_normal((clips, FACTORS))
    waves = np.arange(GRID.patch) / GRID.patch * np.arange(1, FACTORS // 2 + 1)[:, None] * 2 * np.pi
    bands = np.tile(np.concatenate([np.sin(waves), np.cos(waves)]), GRID.rows)
    banks = 0.1 * chance.standard_normal((clips, 1024, 128), dtype=np.float32)
    banks += (factors @ bands)[:, None] / 2
    frames = chance.choice([1024, 998, 500, 200], clips)
    frames[1] = 9  # before the middle of the first column
    banks[np.arange(1024) >= frames[:, None]] = PADDING
    patches = banks.reshape(clips, GRID.columns, GRID.patch, GRID.rows, GRID.patch).transpose(0, 3, 1, 4, 2)
    mixed = chance.standard_normal((GRID.patch**2, DIM), dtype=np.float32) / GRID.patch
    cells = patches.reshape(clips, GRID.rows * GRID.columns, -1) @ mixed
    audio = np.concatenate([np.repeat(cells.mean(axis=1, keepdims=True), CLS, axis=1), cells], axis=1)
    video = np.repeat((factors @ chance.standard_normal((FACTORS, DIM)))[:, None], FRAMES, axis=1)
    video = video + 0.5 * chance.standard_normal(video.shape)
    sounds = resolve(["lite:fbank:tokens"])[0].model_copy(update={"shape": (CLS + 128, DIM)})
    pictures = resolve(["lite:frames"])[0].model_copy(update={"shape": (FRAMES, DIM)})
    present = chance.random((2, clips)) >= missing
    modalities = {
        name: Modality.of(FeatureLayout.of(name, [spec]), {spec.key: rows}, here, "cpu")
        for name, spec, rows, here in (("video", pictures, video, present[0]), ("audio", sounds, audio, present[1]))
    }
    labels = factors[:, :CLASSES].argmax(axis=1)
    splits = np.array(["train", "train", "val", "test"])[np.arange(clips) % 4]
    rows = torch.from_numpy(banks.astype(np.float16))
    rows[torch.from_numpy(~present[1])] = torch.nan
    data = FusionData.from_arrays(modalities, labels, [f"class{number}" for number in range(CLASSES)], splits)
    return replace(data, banks=FilterBanks("key", rows, torch.from_numpy(present[1])))


def make_trainer(data: FusionData, seed: int = 0, head: str = "crossattn", **settings: Any) -> HeadTrainer:
    training = TrainingOverrides(**{**SMALL, **settings})
    recipe = training.recipe(head)
    inputs = HeadInputs.of(head, data, data.train, training.options(head), recipe)
    return HeadTrainer(inputs, data.truth, recipe, seed, filter_banks=data.banks)


def train_batch(trainer: HeadTrainer, clips: int = 16) -> HeadBatch:
    return trainer.inputs.evaluation_batch(trainer.inputs.indices[:clips])


def losses_of(trainer: HeadTrainer, batch: HeadBatch, seed: int = 7) -> dict[str, Tensor]:
    """With all that is drawn at random drawn from this seed."""
    trainer.augment_rng.manual_seed(seed)
    with dropout_source(GeneratorMasks(trainer.augment_rng)):
        return trainer.losses(batch)


@torch.no_grad()
def reconstruction_errors(trainer: HeadTrainer, batch: HeadBatch, seed: int = 0) -> dict[str, float]:
    """Mean squared errors by modality where input is masked, in evaluation mode; the masks depend on the seed alone."""
    assert trainer.auxiliary is not None
    assert trainer.auxiliary.reconstruction is not None
    rng = torch.Generator().manual_seed(seed)
    errors = trainer.auxiliary._reconstruct(trainer.auxiliary.reconstruction, trainer.head.eval(), batch, rng)
    return {name: error.item() for name, error in errors.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, msg=name)


def train_for(data: FusionData, epochs: int, **settings: Any) -> HeadTrainer:
    trainer = make_trainer(data, lr=5e-3, weight_decay=1e-2, epochs=epochs, **settings)
    for _ in range(epochs):
        train_epochs([trainer])
    return trainer
