"""What results are said to cost: against published figures, sums by hand, and what a process really used."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from avfuse.features.backbones import WeightsChoice
from avfuse.features.feature_names import resolve
from avfuse.features.malloc import keep_large_buffers
from avfuse.features.spec import FeatureSpec, ImportedInput
from avfuse.pipeline.report import print_table
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality, StreamedModality
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import ModalityShape, build_head
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.run_folder import Run
from avfuse.stages.fuse.runs.summary import notes, summarise
from avfuse.stages.fuse.training.cost import (
    ResourceUsage,
    _of_network,
    backbone_macs,
    evaluation_passes,
    head_macs,
    measure_resources,
    multiply_adds,
    training_macs,
)
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides

CPU = torch.device("cpu")
IMPORTED = FeatureSpec(
    name="imported:i3d",
    input=ImportedInput(modality="video", description="I3D", reduce=None, shape=(8, 1024)),
    model=None,
    output="pooled",
    shape=(8, 1024),
)


def specs(*names: str, sampling: str | None = None) -> list[FeatureSpec]:
    return resolve(names, sampling=sampling, weights=WeightsChoice("random"))


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=20)


def plan(data: FusionData, head: str, **settings: object) -> TrainingJob:
    return TrainingJob.of(head, data, 0, TrainingOverrides(**settings))


def of_features(data: FusionData, **features: Sequence[FeatureSpec]) -> FusionData:
    """The same clips with numbers that stand for these features."""
    generator = np.random.default_rng(0)
    modalities = {}
    for name, its in features.items():
        layout = FeatureLayout.of(name, its)
        rows = {spec.key: generator.standard_normal((len(data.table), *spec.shape)) for spec in its}
        modalities[name] = Modality.of(layout, rows, np.ones(len(data.table), dtype=bool), "cpu")
    return replace(data, modalities={**data.modalities, **modalities})


# Backbones


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
    monkeypatch.setattr("avfuse.stages.fuse.training.cost.backbones.get_backbone", lambda name: own)
    assert known.model is not None
    ours = known.model_copy(update={"model": known.model.model_copy(update={"backbone": encode.__name__})})
    assert backbone_macs([ours]) == expected


def test_the_filter_bank_comes_from_no_network() -> None:
    assert backbone_macs(specs("audio:fbank")) == 0


# Counting


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
    by_default = head_macs(head), training_macs(plan(data, "bottleneck")), backbone_macs(specs("vit:mfcc"))
    _of_network.cache_clear()
    with sdpa_kernel(kernel):
        assert (
            head_macs(head),
            training_macs(plan(data, "bottleneck")),
            backbone_macs(specs("vit:mfcc")),
        ) == by_default


def test_two_passes_cost_twice_as_much() -> None:
    layer, x = nn.Linear(30, 7), torch.randn(5, 30)
    assert multiply_adds(lambda: layer(x)) == 5 * 30 * 7
    assert multiply_adds(lambda: (layer(x), layer(x))) == 2 * 5 * 30 * 7


# Heads


def test_an_mlp_costs_its_products(data: FusionData) -> None:
    head = build_head("mlp", data.shapes, data.targets)
    by_hand = (16 + 2 * 16) * 512 + 512 * 256 + 256 * 6
    assert head_macs(head) == by_hand
    assert training_macs(plan(data, "mlp")) == by_hand


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
    training_macs(plan(data, "bottleneck"))
    backbone_macs(specs("resnet18:mfcc"))
    assert head.training
    assert torch.equal(torch.get_rng_state(), before)


def test_every_window_that_is_averaged_at_test_counts(data: FusionData) -> None:
    windows = of_features(
        data,
        video=specs("lite:frames:windows4", "lite:frames:windows4:h", sampling="uniform:2"),
        audio=specs("lite:mfcc", "lite:mfcc:h"),
    )
    assert evaluation_passes(plan(windows, "mlp")) == 4
    assert evaluation_passes(plan(windows, "audio")) == 1
    assert evaluation_passes(plan(windows, "mlp", views=False)) == 1
    head = build_head("mlp", windows.shapes, windows.targets)
    once = head_macs(head)
    assert once is not None
    assert head_macs(head, 4) == 4 * once
    assert training_macs(plan(windows, "mlp")) == once  # of which training draws one


def test_what_is_streamed_costs_as_much(data: FusionData) -> None:
    seen = of_features(data, audio=specs("lite:mfcc", "lite:mfcc:flips"))
    audio = seen.modalities["audio"]
    assert audio.layout is not None
    streamed = replace(seen, modalities={**seen.modalities, "audio": StreamedModality(audio.present, audio.layout, {})})
    assert training_macs(plan(streamed, "mlp")) == training_macs(plan(seen, "mlp"))


def test_a_second_pass_over_hidden_input_counts(data: FusionData) -> None:
    count = len(data.table)
    rows = torch.randn(count, 1024, 128, generator=torch.Generator().manual_seed(0)).half()
    banks = FilterBanks("key", rows, torch.ones(count, dtype=torch.bool))
    grid = replace(of_features(data, audio=specs("lite:fbank:tokens")), banks=banks)
    plain, masked = (training_macs(plan(grid, "bottleneck", masked=weight, batch_size=4)) for weight in (0, 0.01))
    assert plain is not None
    assert masked is not None
    decoders = 4 * 32 * 32 * 32 * 128 + 5 * 128 * 16
    assert masked == pytest.approx(2 * plain + decoders, rel=0.02)  # which pixels were hidden is a product too


def test_matched_and_contrasted_training_costs_more(data: FusionData) -> None:
    plain, matched = (training_macs(plan(data, "bottleneck", avm=weight)) for weight in (0, 0.1))
    assert plain is not None
    assert matched is not None
    assert matched / plain == pytest.approx(3, rel=0.01)  # two wrong pairs a clip
    contrasted = training_macs(plan(data, "bottleneck", avc=0.5))
    assert contrasted is not None
    batch = 32
    assert contrasted - plain == 2 * 128 * 256 + batch * 256


def test_what_is_fitted_at_once_has_no_steps(data: FusionData) -> None:
    assert training_macs(plan(data, "logreg")) is None


# Time and memory


def test_memory_is_that_of_the_stretch_and_not_of_the_time_before() -> None:
    keep_large_buffers()  # as after training: what is freed now stays with the process
    megabytes = 200
    with measure_resources(CPU) as large:
        ones = np.ones(megabytes * 2**17)
        del ones
    with measure_resources(CPU) as small:
        pass
    if large.peak_bytes is None or small.peak_bytes is None:
        pytest.skip("this system does not say")
    assert large.peak_bytes - small.peak_bytes > 0.9 * megabytes * 2**20


def test_where_a_peak_cannot_be_reset_an_old_one_is_not_taken_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    ever = [100, 100, 100, 700]
    monkeypatch.setattr("avfuse.stages.fuse.training.cost._largest_ever", lambda: ever.pop(0))
    with measure_resources(CPU) as low:
        pass
    with measure_resources(CPU) as high:
        pass
    assert (low.peak_bytes, high.peak_bytes) == (None, 700)


def test_seconds_of_an_epoch_are_without_what_comes_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("avfuse.stages.fuse.training.cost.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with measure_resources(CPU, heads=2) as spent:
        clock[0] += 30
        for _ in range(3):
            clock[0] += 2
            spent.epoch()
            spent.epoch()
    assert spent.seconds == 36
    assert spent.seconds_per_epoch == 1


def test_without_epochs_none_takes_any_time() -> None:
    assert ResourceUsage(heads=1, seconds=3.0).seconds_per_epoch is None


# Results


def fuse(data: FusionData, folder: Path, heads: list[str], seeds: int = 2) -> Run:
    described = {"dataset": "made-up"}
    return run_experiment(data, folder, heads, seeds, TrainingOverrides(epochs=2), described, progress=False)


def test_every_result_says_what_it_costs(data: FusionData, tmp_path: Path) -> None:
    lite = of_features(data, video=specs("lite:frames", sampling="uniform:2"), audio=specs("lite:mfcc"))
    fuse(lite, tmp_path, ["audio", "mlp", "logreg"])
    table = pd.read_csv(tmp_path / "results.csv").query("seed == 1").set_index("head")
    once = backbone_macs(specs("lite:mfcc"))
    assert once is not None
    assert table["backbone_macs"].to_dict() == {"audio": once, "mlp": 3 * once, "logreg": 3 * once}
    assert table["macs"]["mlp"] == 2 * 1280 * 512 + 512 * 256 + 256 * 6
    assert table["training_macs"]["mlp"] == table["macs"]["mlp"]
    assert table[["training_macs", "seconds_per_epoch"]].isna().all(axis=1).to_dict() == {
        "audio": False,
        "mlp": False,
        "logreg": True,
    }
    assert (table["peak_memory_mib"].dropna() > 100).all()
    assert table["seconds"].notna().all()


def test_the_table_shows_what_is_not_known_as_a_dash(data: FusionData, tmp_path: Path) -> None:
    imported = of_features(data, video=[IMPORTED])
    run = fuse(imported, tmp_path, ["audio", "mlp"], seeds=1)
    audio, mlp = summarise(run)
    assert audio.backbone_macs is not None
    assert mlp.backbone_macs is None
    _, _, headings, _, *rows = print_table(run, [audio, mlp]).splitlines()
    assert "backbone GMACs" in headings
    assert rows[1].split()[-3] == "-"
    assert "multiply-adds" in " ".join(notes(run))


@pytest.mark.slow
def test_the_table_of_all_six_heads_fits_on_a_screen(data: FusionData, tmp_path: Path) -> None:
    run = fuse(data, tmp_path, ["audio", "video", "average", "mlp", "crossattn", "bottleneck"], seeds=1)
    _, _, headings, line, *_ = print_table(run, summarise(run)).splitlines()
    assert len(headings) == len(line) < 140
