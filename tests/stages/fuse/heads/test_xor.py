"""What only both modalities together hold: the exclusive or of what is seen and what is heard."""

import numpy as np
import pytest
import torch

from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head

CLIPS, FRAMES, DIM = 320, 3, 12
SMALL = {"dim": 24, "heads": 2, "blocks": 2}


@pytest.fixture(scope="module")
def data() -> FusionData:
    """Frames point one of two ways, and so do the cells of a 4 x 32 grid of sound; the class is whether they agree."""
    generator = np.random.default_rng(0)
    number = np.arange(CLIPS)
    part, seen, heard = number % 4, number // 4 % 2, number // 8 % 2  # every part has as many of each pair

    def pointing(which: np.ndarray, tokens: int) -> np.ndarray:
        ways = 2 * generator.standard_normal(DIM) * (2 * which[:, None] - 1)
        return (ways[:, None] + generator.standard_normal((CLIPS, tokens, DIM))).astype(np.float32)

    everyone = torch.ones(CLIPS, dtype=torch.bool)
    specs = [spec.model_copy(update={"shape": (128, DIM)}) for spec in resolve(["lite:fbank:tokens"])]
    layout = FeatureLayout.of("audio", specs)
    audio = Modality(torch.from_numpy(pointing(heard, 128)), everyone, tuple(specs), None, layout)
    splits = np.array(["train", "train", "val", "test"])[part]
    modalities = {"video": pointing(seen, FRAMES), "audio": audio}
    return FusionData.from_arrays(modalities, seen ^ heard, ["differ", "agree"], splits)


def reached(data: FusionData, head: str, **settings: object) -> float:
    truth = data.truth[0][data.test].numpy()
    logits = train_head(head, data, 0, TrainingOverrides(**{"epochs": 20, **settings})).logits
    return float((logits.argmax(axis=1) == truth).mean())


@pytest.mark.parametrize(
    "head",
    ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("crossattn", "alpha", "bottleneck", "mmt"))],
)
def test_joint_heads_find_it(data: FusionData, head: str) -> None:
    settings = {"lr": 1e-3, "epochs": 6} if head == "mmt" else {"lr": 1e-4 if head == "alpha" else 3e-3}
    assert reached(data, head, **settings, **SMALL) > 0.97


@pytest.mark.parametrize(
    "head",
    [
        "average",
        "logreg",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("audio", "video", "svc", "mat_lite")),
    ],
)
def test_single_modalities_late_fusion_and_linear_heads_do_not(data: FusionData, head: str) -> None:
    epochs = 2 if head == "mat_lite" else 20
    assert abs(reached(data, head, epochs=epochs) - 0.5) < 4 * 0.5 / len(data.test) ** 0.5
