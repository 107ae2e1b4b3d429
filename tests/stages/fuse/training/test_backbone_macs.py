"""Multiply-adds of backbones: against published figures, pass by pass, and never a guess."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from counted_features import IMPORTED, specs
from torch import nn

from avfuse.stages.fuse.training.macs import (
    backbone_macs,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("feature", "sampling", "giga"),
    [
        ("tsn:frames", "uniform:25", 25 * 2.03),
        ("inception_resnet_v2:mfcc-paper", None, 6.47),
        ("inception_resnet_v2:mfcc", None, 13.15),
        ("vit:mfcc", None, 17.6),
        ("ast:fbank", None, 130.5),
        ("timesformer:clip", None, 195.8),
        ("lite:frames", "uniform:8", 8 * 0.39),
    ],
)
def test_backbones_cost_what_is_published(feature: str, sampling: str | None, giga: float) -> None:
    assert backbone_macs(specs(feature, sampling=sampling)) == pytest.approx(giga * 1e9, rel=0.02)


@pytest.mark.slow
def test_frames_seen_together_are_one_pass() -> None:
    of_16, of_32 = (backbone_macs(specs("swin3d:clip", sampling=f"uniform:{count}")) for count in (16, 32))
    assert of_16 is not None
    assert of_32 == 2 * of_16


def test_a_pass_that_gives_several_features_counts_once() -> None:
    every = specs("lite:mfcc", "lite:mfcc:tokens", "lite:mfcc:tokens2x2")
    assert len(every) == 3
    assert backbone_macs(every) == backbone_macs(every[:1])


def test_every_image_window_and_view_is_a_pass() -> None:
    once = backbone_macs(specs("lite:mfcc"))
    assert once is not None
    assert backbone_macs(specs("lite:images")) == 6 * once
    assert backbone_macs(specs("lite:mfcc:flips")) == 4 * once
    assert backbone_macs(specs("lite:frames:windows4", sampling="uniform:2")) == 4 * 2 * once


def test_what_is_not_known_is_not_guessed() -> None:
    (known,) = specs("lite:mfcc")
    assert known.model is not None
    gone = known.model_copy(update={"model": known.model.model_copy(update={"backbone": "gone"})})
    changed = known.model_copy(update={"model": known.model.model_copy(update={"revision": 99})})
    for unknown in (IMPORTED, gone, changed):
        assert backbone_macs([unknown]) is None
        assert backbone_macs([known, unknown]) is None


def test_a_library_s_network_that_is_not_here_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVFUSE_WEIGHTS", str(tmp_path))
    (known,) = specs("lite:mfcc")
    assert known.model is not None
    far = known.model_copy(update={"model": known.model.model_copy(update={"backbone": "hf:owner/far-away"})})
    monkeypatch.setattr(
        "avfuse.features.backbones.adapters.transformers.fetch", lambda checkpoint: pytest.fail("was fetched")
    )
    assert backbone_macs([far]) is None


def reads_its_numbers(network: nn.Module, batch: torch.Tensor) -> None:
    if batch.sum().item() == 0:
        network(batch)


def breaks(network: nn.Module, batch: torch.Tensor) -> None:
    raise KeyError("anything")


@pytest.mark.parametrize(("encode", "expected"), [(reads_its_numbers, 224 * 3 * 224 * 5), (breaks, None)])
def test_a_network_of_a_user_s_own_is_run_where_it_has_to_be(
    monkeypatch: pytest.MonkeyPatch, encode: Callable[[nn.Module, torch.Tensor], None], expected: int | None
) -> None:
    own = SimpleNamespace(revision=1, make=lambda: nn.Linear(224, 5), encode=encode)
    (known,) = specs("lite:mfcc")
    monkeypatch.setattr("avfuse.stages.fuse.training.macs.backbones.get_backbone", lambda name: own)
    assert known.model is not None
    ours = known.model_copy(update={"model": known.model.model_copy(update={"backbone": encode.__name__})})
    assert backbone_macs([ours]) == expected


def test_the_filter_bank_comes_from_no_network() -> None:
    assert backbone_macs(specs("audio:fbank")) == 0
