"""Heads with a multiscale audio encoder: what they take, what they never read, and what they learn."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head, get_head
from avfuse.stages.fuse.heads.dropout import (
    GeneratorMasks,
    MaskRecorder,
    PrecomputedMasks,
    dropout_mask,
    dropout_source,
)
from avfuse.stages.fuse.heads.multiscale import DropPath

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


@pytest.fixture(scope="module", params=[MAT_LITE, MMT, MAT, MMT_ON_BANKS], ids=name_of)
def head(request: pytest.FixtureRequest) -> Head:
    return build(request.param).eval()


@pytest.fixture(scope="module", params=[MAT_LITE, MMT], ids=name_of)
def on_grid(request: pytest.FixtureRequest) -> Head:
    return build(request.param).eval()


def clips(head: Head, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    tokens = {
        name: torch.randn(BATCH, door.shape.length, door.shape.dim, generator=draws) for name, door in doors(head)
    }
    return tokens, {name: torch.ones(BATCH, dtype=torch.bool) for name in tokens}


def doors(head: Head) -> list[tuple[str, Any]]:
    return sorted(head.modality_inputs().items())


def own_draws(seed: int) -> GeneratorMasks:
    return GeneratorMasks(torch.Generator().manual_seed(seed))


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
    for name, door in doors(head):
        door.fit([(tokens[name], present[name])])
    prepared = head.prepare(tokens, present)
    for name, door in doors(head):
        assert torch.equal(prepared[name], tokens[name]) == door.shape.raw
        door.mean.zero_()
        door.deviation.fill_(1)


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


# Random numbers


def test_random_numbers_are_the_heads_own(head: Head) -> None:
    tokens, present = clips(head)
    head.train()
    with torch.no_grad():
        outcomes = []
        for draws, noise in ((1, 0), (1, 1000), (2, 0)):
            torch.rand(noise)
            before = torch.random.get_rng_state()
            with dropout_source(own_draws(draws)):
                outcomes.append(head(tokens, present)["logits"])
            assert torch.equal(torch.random.get_rng_state(), before)
    head.eval()
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_without_drop_path_and_dropout_nothing_is_drawn() -> None:
    head = build(("mmt", {"dim": 32, "drop_path": 0, "dropout": 0}, GRID)).train()
    with dropout_source(recorder := MaskRecorder()):
        head(*clips(head))
    assert recorder.requests == []


def test_drop_path_leaves_out_whole_clips() -> None:
    drop = DropPath(0.25)
    x = torch.randn(4000, 3, 2)
    with dropout_source(own_draws(0)):
        dropped = drop(x)
    kept = dropped.abs().sum(dim=(1, 2)) > 0
    torch.testing.assert_close(dropped, kept[:, None, None] * x / 0.75)
    assert kept.float().mean() == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)
    assert torch.equal(drop.eval()(x), x)


def test_later_blocks_are_left_out_more_often() -> None:
    with torch.device("meta"):
        head = build(("mat", {"drop_path": 0.23}, BANK))
    shares = [block.drop_path.p for block in head.encode.blocks]
    assert shares == pytest.approx([number / 100 for number in range(24)])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # the bottleneck's, on a CPU
@pytest.mark.parametrize("case", [MAT_LITE, MMT], ids=name_of)
def test_a_head_among_others_is_the_head_alone(case: Case) -> None:
    """Stacked under vmap as training does it, with each head's own clips and masks: the same losses and gradients."""
    heads = [build(case).train() for _ in range(2)]
    with torch.no_grad():
        for parameter in heads[1].parameters():
            parameter.mul_(1.1)
    batches = [clips(heads[0], seed)[0] for seed in range(2)]
    masks = dict.fromkeys(batches[0])
    alone = []
    for number, (head, tokens) in enumerate(zip(heads, batches, strict=True)):
        with dropout_source(own_draws(number)):
            alone.append(head(tokens, masks)["logits"].square().mean())
        alone[-1].backward()
    with dropout_source(recorder := MaskRecorder()), torch.no_grad():
        heads[0](batches[0], masks)
    draws = [torch.Generator().manual_seed(number) for number in range(2)]
    drawn_masks = [torch.stack([dropout_mask(*asked, each) for each in draws]) for asked in recorder.requests]
    assert min(mask.min() for mask in drawn_masks) == 0
    parameters, _ = stack_module_state(heads)

    def loss(own: dict[str, Tensor], tokens: dict[str, Tensor], keep: list[Tensor]) -> Tensor:
        with dropout_source(PrecomputedMasks(keep)):
            return functional_call(heads[0], own, (tokens, masks))["logits"].square().mean()

    stacked = {name: torch.stack([batch[name] for batch in batches]) for name in masks}
    losses = vmap(loss)(parameters, stacked, drawn_masks)
    losses.sum().backward()
    torch.testing.assert_close(losses, torch.stack(alone))
    for number, head in enumerate(heads):
        for name, parameter in head.named_parameters():
            if parameter.grad is not None:
                theirs = parameters[name].grad[number]
                torch.testing.assert_close(theirs, parameter.grad, rtol=1e-3, atol=1e-5, msg=partial(_named, name))


def _named(name: str, message: str) -> str:
    return f"{name}: {message}"


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
    with dropout_source(own_draws(0)):
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
