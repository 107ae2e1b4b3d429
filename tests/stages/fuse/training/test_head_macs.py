"""Multiply-adds of heads and of training steps: against sums by hand, whichever kernel a machine picks."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from counted_features import job, of_features, specs
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.modality import StreamedModality
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import ModalityShape, build_head
from avfuse.stages.fuse.training.macs import (
    _network_macs,
    backbone_macs,
    evaluation_passes,
    head_macs,
    multiply_adds,
    training_macs,
)


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=20)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_attention_is_counted_however_it_is_computed(mode: Callable[[], torch.autograd.grad_mode.no_grad]) -> None:
    """In evaluation PyTorch has one fast operation for all of a layer, which its counter does not see."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    tokens = torch.randn(1, 10, 32)
    with mode():
        found = multiply_adds(lambda: layer(tokens))
    assert found == 10 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 10 * 10 * 32
    assert torch.backends.mha.get_fastpath_enabled()


DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", list(SDPBackend.__members__.values()), ids=str)
def test_attention_costs_the_same_whichever_kernel_a_machine_picks(kernel: SDPBackend, device: str) -> None:
    """Two products: 8 queries with 12 keys of 16 numbers, and 12 values of 4 numbers with their weights."""
    query, key, value = (torch.zeros(2, 3, *shape, device=device) for shape in ((8, 16), (12, 16), (12, 4)))
    with sdpa_kernel(kernel):
        found = multiply_adds(lambda: nn.functional.scaled_dot_product_attention(query, key, value))
    assert found == 2 * 3 * 8 * 12 * (16 + 4)


@pytest.mark.parametrize("kernel", list(SDPBackend.__members__.values()), ids=str)
def test_a_head_and_a_backbone_cost_the_same_whichever_kernel_a_machine_picks(
    data: FusionData, kernel: SDPBackend
) -> None:
    head = build_head("bottleneck", data.shapes, data.targets)
    by_default = head_macs(head), training_macs(job(data, "bottleneck")), backbone_macs(specs("vit:mfcc"))
    _network_macs.cache_clear()
    with sdpa_kernel(kernel):
        assert (
            head_macs(head),
            training_macs(job(data, "bottleneck")),
            backbone_macs(specs("vit:mfcc")),
        ) == by_default


def test_two_passes_cost_twice_as_much() -> None:
    layer, x = nn.Linear(30, 7), torch.randn(5, 30)
    assert multiply_adds(lambda: layer(x)) == 5 * 30 * 7
    assert multiply_adds(lambda: (layer(x), layer(x))) == 2 * 5 * 30 * 7


def test_an_mlp_costs_its_products(data: FusionData) -> None:
    head = build_head("mlp", data.shapes, data.targets)
    by_hand = (16 + 2 * 16) * 512 + 512 * 256 + 256 * 6
    assert head_macs(head) == by_hand
    assert training_macs(job(data, "mlp")) == by_hand


def test_late_fusion_costs_both_classifiers(data: FusionData) -> None:
    costs = {name: head_macs(build_head(name, data.shapes, data.targets)) for name in ("video", "audio", "average")}
    assert costs["average"] == costs["video"] + costs["audio"]


def test_the_bottleneck_costs_what_the_paper_s_formula_says() -> None:
    """12 n d^2 + 2 n^2 d a block of n tokens, and the layers around."""
    shapes = {"video": ModalityShape(10, 16), "audio": ModalityShape(7, 24)}
    targets = Targets((LearnedTarget("label", ("a", "b", "c")),))
    d, shared = 128, 4
    blocks = sum(4 * (12 * n * d**2 + 2 * n**2 * d) for n in (10 + shared, 7 + shared))
    expected = blocks + 10 * 16 * d + 7 * 24 * d + 2 * d * 3
    assert head_macs(build_head("bottleneck", shapes, targets)) == expected


def test_counting_leaves_a_head_as_it_was(data: FusionData) -> None:
    head = build_head("mlp", data.shapes, data.targets).train()
    before = torch.get_rng_state()
    head_macs(head)
    training_macs(job(data, "bottleneck"))
    backbone_macs(specs("resnet18:mfcc"))
    assert head.training
    assert torch.equal(torch.get_rng_state(), before)


def test_every_window_that_is_averaged_at_test_counts(data: FusionData) -> None:
    windows = of_features(
        data,
        video=specs("lite:frames:windows4", "lite:frames:windows4:h", sampling="uniform:2"),
        audio=specs("lite:mfcc", "lite:mfcc:h"),
    )
    assert evaluation_passes(job(windows, "mlp")) == 4
    assert evaluation_passes(job(windows, "audio")) == 1
    assert evaluation_passes(job(windows, "mlp", views=False)) == 1
    head = build_head("mlp", windows.shapes, windows.targets)
    once = head_macs(head)
    assert once is not None
    assert head_macs(head, 4) == 4 * once
    assert training_macs(job(windows, "mlp")) == once  # of which training draws one


def test_what_is_streamed_costs_as_much(data: FusionData) -> None:
    seen = of_features(data, audio=specs("lite:mfcc", "lite:mfcc:flips"))
    audio = seen.modalities["audio"]
    assert audio.layout is not None
    streamed = replace(seen, modalities={**seen.modalities, "audio": StreamedModality(audio.present, audio.layout, {})})
    assert training_macs(job(streamed, "mlp")) == training_macs(job(seen, "mlp"))


def test_a_second_pass_over_hidden_input_counts(data: FusionData) -> None:
    count = len(data.table)
    rows = torch.randn(count, 1024, 128, generator=torch.Generator().manual_seed(0)).half()
    banks = FilterBanks("key", rows, torch.ones(count, dtype=torch.bool))
    grid = replace(of_features(data, audio=specs("lite:fbank:tokens")), banks=banks)
    plain, masked = (training_macs(job(grid, "bottleneck", masked=weight, batch_size=4)) for weight in (0, 0.01))
    assert plain is not None
    assert masked is not None
    decoders = 4 * 32 * 32 * 32 * 128 + 5 * 128 * 16
    assert masked == pytest.approx(2 * plain + decoders, rel=0.02)  # which pixels were hidden is a product too


def test_matched_and_contrasted_training_costs_more(data: FusionData) -> None:
    plain, matched = (training_macs(job(data, "bottleneck", avm=weight)) for weight in (0, 0.1))
    assert plain is not None
    assert matched is not None
    assert matched / plain == pytest.approx(3, rel=0.01)  # two wrong pairs a clip
    contrasted = training_macs(job(data, "bottleneck", avc=0.5))
    assert contrasted is not None
    batch = 32
    assert contrasted - plain == 2 * 128 * 256 + batch * 256


def test_what_is_fitted_at_once_has_no_steps(data: FusionData) -> None:
    assert training_macs(job(data, "logreg")) is None
