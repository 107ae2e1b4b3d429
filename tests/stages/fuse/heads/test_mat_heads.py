"""Heads with a multiscale audio encoder: what they take, what they never read, and what they learn."""

import pytest
import torch
from mat_cases import (
    BANK,
    BATCH,
    CLASSES,
    GRID,
    MAT,
    MAT_LITE,
    MMT,
    MMT_ON_BANKS,
    TARGETS,
    Case,
    build,
    clips,
    generator_masks,
    name_of,
    sorted_inputs,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head
from avfuse.stages.fuse.heads.dropout import (
    dropout_source,
)


@pytest.fixture(scope="module", params=[MAT_LITE, MMT, MAT, MMT_ON_BANKS], ids=name_of)
def head(request: pytest.FixtureRequest) -> Head:
    return build(request.param).eval()


@pytest.fixture(scope="module", params=[MAT_LITE, MMT], ids=name_of)
def on_grid(request: pytest.FixtureRequest) -> Head:
    return build(request.param).eval()


# What they take


@pytest.mark.slow
def test_mat_is_as_large_as_published() -> None:
    with torch.device("meta"):
        head = build_head("mat", {"audio": ModalityShape(1024, 128, raw=True)}, TARGETS).eval()
        with FlopCounterMode(display=False) as counter:
            head({"audio": torch.empty(1, 1024, 128)}, {"audio": None})
    assert sum(parameter.numel() for parameter in head.parameters()) == pytest.approx(50.8e6, rel=0.03)
    assert counter.get_total_flops() / 2 == pytest.approx(24.6e9, rel=0.03)


def test_logits_have_a_column_per_class(head: Head) -> None:
    assert head.predict(*clips(head))["logits"].shape == (BATCH, CLASSES)


def test_the_filter_bank_is_not_standardised_again_and_tokens_are(head: Head) -> None:
    tokens, present = clips(head)
    tokens = {name: 5 * each + 3 for name, each in tokens.items()}
    for name, modality_input in sorted_inputs(head):
        modality_input.fit([(tokens[name], present[name])])
    prepared = head.prepare(tokens, present)
    for name, modality_input in sorted_inputs(head):
        assert torch.equal(prepared[name], tokens[name]) == modality_input.shape.raw
        modality_input.mean.zero_()
        modality_input.deviation.fill_(1)


@pytest.mark.parametrize("audio", [GRID, ModalityShape(6, 1280), ModalityShape(1024, 128)])
def test_mat_refuses_what_is_no_filter_bank(audio: ModalityShape) -> None:
    with pytest.raises(UsageError) as refusal:
        build_head("mat", {"audio": audio}, TARGETS)
    assert str(refusal.value) == "head 'mat' takes the filter bank: AUDIO=audio:fbank"


@pytest.mark.parametrize("audio", [BANK, ModalityShape(6, 1280), ModalityShape(393, 8, prefix=1, grid=(8, 7, 7))])
def test_mat_lite_refuses_what_is_no_grid_of_sound(audio: ModalityShape) -> None:
    with pytest.raises(UsageError) as refusal:
        build_head("mat_lite", {"audio": audio}, TARGETS)
    expected = "head 'mat_lite' takes a grid of audio tokens: AUDIO=ast:fbank:tokens or lite:fbank:tokens"
    assert str(refusal.value) == expected


@pytest.mark.parametrize(
    ("encoder", "audio", "expected"),
    [
        ("mat", GRID, "head 'mmt' with encoder=mat takes the filter bank: AUDIO=audio:fbank"),
        ("mat_lite", BANK, "head 'mmt' with encoder=mat_lite takes a grid of audio tokens: AUDIO=ast:fbank:tokens or"),
    ],
)
def test_mmt_refuses_what_its_encoder_cannot_take(encoder: str, audio: ModalityShape, expected: str) -> None:
    with pytest.raises(UsageError) as refusal:
        build(("mmt", {"encoder": encoder}, audio))
    assert str(refusal.value).startswith(expected)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("case", [MAT_LITE, MMT, MAT, MMT_ON_BANKS], ids=name_of)
def test_parameters_can_be_counted_without_memory_for_them(case: Case) -> None:
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in build(case).parameters())


@pytest.mark.parametrize("pooling", ["2d", "1d", "none"])
def test_pooling_decides_how_many_tokens_are_left(pooling: str) -> None:
    encode = build(("mmt", {"pooling": pooling}, GRID)).encode
    assert encode(torch.randn(2, 32, 16)).tokens.shape[1] == {"2d": 2 * 2, "1d": 4 * 2, "none": 4 * 8}[pooling]


# What they never read


def test_tokens_before_the_grid_are_never_read(on_grid: Head) -> None:
    tokens, present = clips(on_grid)
    expected = on_grid.predict(tokens, present)["logits"]
    tokens["audio"][:, : GRID.prefix] = torch.nan
    assert torch.equal(on_grid.predict(tokens, present)["logits"], expected)


def test_every_cell_is_read(on_grid: Head) -> None:
    tokens, present = clips(on_grid)
    tokens["audio"].requires_grad_()
    on_grid(tokens, present)["logits"].square().sum().backward()
    assert (tokens["audio"].grad[:, GRID.prefix :].abs().sum(dim=2) > 0).all()


def test_a_missing_modality_is_never_read(head: Head) -> None:
    """NaN stands in its place: any use of it would show, in what comes out or in gradients."""
    tokens, present = clips(head)
    expected = head.predict(tokens, present)["logits"]
    for name in tokens:
        holed = {key: each.clone() for key, each in tokens.items()}
        here = {key: each.clone() for key, each in present.items()}
        holed[name][1], here[name][1] = torch.nan, False
        logits = head.predict(holed, here)["logits"]
        torch.testing.assert_close(logits[[0, 2, 3]], expected[[0, 2, 3]])
        head.zero_grad()
        head.loss({"logits": logits}, here, [torch.arange(BATCH)]).backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in head.parameters())
        assert head.modality_inputs()[name].absent.grad.abs().sum() > 0


def test_no_mask_says_the_same_as_a_mask_of_all(head: Head) -> None:
    tokens, present = clips(head)
    everyone, unsaid = (head(tokens, masks) for masks in (present, dict.fromkeys(present)))
    assert all(torch.equal(everyone[key], unsaid[key]) for key in everyone)


def test_clips_of_a_batch_do_not_see_each_other(head: Head) -> None:
    tokens, present = clips(head)
    alone = head({name: each[:1] for name, each in tokens.items()}, {name: each[:1] for name, each in present.items()})
    torch.testing.assert_close(alone["logits"], head(tokens, present)["logits"][:1], rtol=1e-4, atol=1e-5)


# The bottleneck


def after_video(head: Head, louder: float) -> Tensor:
    tokens, present = clips(head)
    tokens["audio"] = louder * tokens["audio"]
    with torch.no_grad():
        return head.eval()(tokens, present)["after_video"]


def test_sound_reaches_video_only_through_the_shared_tokens() -> None:
    """Audio blocks without weights hand on what they get: shared tokens then carry nothing of the sound."""
    head = build(MMT)
    assert not torch.allclose(after_video(head, 1.0), after_video(head, 3.0))
    with torch.no_grad():
        for block in head.exchange.audio_blocks:
            for parameter in block.parameters():
                parameter.zero_()
    assert torch.equal(after_video(head, 1.0), after_video(head, 3.0))


def test_in_a_single_block_video_comes_first() -> None:
    head = build(("mmt", {"dim": 32, "blocks": 1}, GRID))
    assert torch.equal(after_video(head, 1.0), after_video(head, 3.0))


def test_before_the_bottleneck_each_modality_is_alone() -> None:
    head = build(MMT).eval()
    tokens, present = clips(head)
    reference = head(tokens, present)
    for name, other in (("video", "audio"), ("audio", "video")):
        outputs = head({**tokens, name: -tokens[name]}, present)
        assert torch.equal(outputs[f"before_{other}"], reference[f"before_{other}"])
        assert not torch.allclose(outputs[f"before_{name}"], reference[f"before_{name}"])
        assert outputs[f"after_{name}"].shape == outputs[f"before_{name}"].shape == (BATCH, 32)


def test_what_is_said_of_sound_before_the_bottleneck_trains_the_encoder() -> None:
    head = build(MMT).eval()
    head(*clips(head))["before_audio"].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.encode.blocks.parameters())


def test_mmt_has_no_tokens_to_reconstruct_from() -> None:
    head = build(MMT).eval()
    assert not [key for key in head(*clips(head)) if key.startswith("tokens_")]


# Learning


CELLS = ModalityShape(4 * 8, 16, grid=(4, 8))


def ordered_pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grids (n, 32, 16) in which one sound comes two steps before another, sooner or later, each in its own band; and 1
    where it is the other way round, of which the mean over cells says nothing."""
    draws = torch.Generator().manual_seed(seed)
    sounds = torch.randn(2, CELLS.dim, generator=torch.Generator().manual_seed(99))
    order = torch.arange(count) % 2
    grids = 0.1 * torch.randn(count, 4, 8, CELLS.dim, generator=draws)
    first = 2 * torch.randint(3, (count,), generator=draws)
    for sound in range(2):
        grids[torch.arange(count), 1 + sound, first + 2 * (order != sound)] += 3 * sounds[sound]
    return grids.flatten(1, 2), order


def right_after_training(name: str, lr: float) -> float:
    """The share of unseen clips of which a head tells in which order the sounds come."""
    torch.manual_seed(0)
    targets = Targets((LearnedTarget("label", ("one", "other")),))
    head = build_head(name, {"audio": CELLS}, targets).train()
    (tokens, order), (unseen, theirs) = ordered_pairs(256, seed=0), ordered_pairs(256, seed=1)
    everyone = {"audio": torch.ones(256, dtype=torch.bool)}
    head.modality_inputs()["audio"].fit([(tokens, everyone["audio"])])
    prepared = head.prepare({"audio": tokens}, everyone)["audio"]
    optimiser = torch.optim.AdamW(head.parameters(), lr=lr, fused=True)
    shuffle = torch.Generator().manual_seed(0)
    with dropout_source(generator_masks(0)):
        for step in range(48):
            batch = torch.randperm(256, generator=shuffle)[:16]
            loss = head.loss(head({"audio": prepared[batch]}, {"audio": None}), {"audio": None}, [order[batch]])
            optimiser.zero_grad()
            loss.backward()
            optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 10)
            optimiser.step()
    with torch.no_grad():
        logits = head.eval().predict({"audio": unseen}, everyone)["logits"]
    return (logits.argmax(dim=1) == theirs).float().mean().item()


@pytest.mark.slow
def test_mat_lite_learns_an_order_that_the_mean_of_tokens_does_not_hold() -> None:
    assert right_after_training("mat_lite", lr=3e-4) > 0.9
    assert 0.35 < right_after_training("audio", lr=3e-4) < 0.65
