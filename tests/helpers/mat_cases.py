"""Heads with a multiscale audio encoder, small, and random clips for them."""

from typing import Any

import torch
from torch import Tensor

from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, get_head
from avfuse.stages.fuse.heads.dropout import (
    GeneratorMasks,
)

BATCH, CLASSES = 4, 12
TARGETS = Targets((LearnedTarget("label", tuple(f"class{number}" for number in range(CLASSES))),))
PICTURE = ModalityShape(5, 24)
GRID = ModalityShape(2 + 4 * 8, 16, prefix=2, grid=(4, 8))
BANK = ModalityShape(60, 40, raw=True)
SIDE = {"video": PICTURE, "audio": GRID}

Case = tuple[str, dict[str, Any], ModalityShape]
MAT_LITE: Case = ("mat_lite", {"drop_path": 0.5}, GRID)
MAT: Case = ("mat", {"drop_path": 0.5}, BANK)
MMT: Case = ("mmt", {"drop_path": 0.5, "dim": 32}, GRID)
MMT_ON_BANKS: Case = ("mmt", {"drop_path": 0.5, "dim": 32, "encoder": "mat"}, BANK)


def name_of(case: Case) -> str:
    return "-".join([case[0], *case[1].get("encoder", "").split()])


def build(case: Case) -> Head:
    name, options, audio = case
    torch.manual_seed(0)
    return build_head(name, {"video": PICTURE, "audio": audio}, TARGETS, get_head(name).Options(**options))


def clips(head: Head, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    shapes = {name: modality_input.shape[:2] for name, modality_input in sorted_inputs(head)}
    tokens = {name: torch.randn(BATCH, *shape, generator=draws) for name, shape in shapes.items()}
    return tokens, {name: torch.ones(BATCH, dtype=torch.bool) for name in tokens}


def sorted_inputs(head: Head) -> list[tuple[str, Any]]:
    return sorted(head.modality_inputs().items())


def generator_masks(seed: int) -> GeneratorMasks:
    return GeneratorMasks(torch.Generator().manual_seed(seed))
