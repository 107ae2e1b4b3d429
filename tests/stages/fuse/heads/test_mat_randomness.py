"""Random numbers of heads with a multiscale audio encoder: dropout and drop path, alone and under vmap."""

from functools import partial

import pytest
import torch
from mat_cases import (
    BANK,
    GRID,
    MAT,
    MAT_LITE,
    MMT,
    MMT_ON_BANKS,
    Case,
    build,
    clips,
    generator_masks,
    name_of,
)
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from avfuse.stages.fuse.heads import Head
from avfuse.stages.fuse.heads.dropout import (
    MaskRecorder,
    PrecomputedMasks,
    dropout_mask,
    dropout_source,
)
from avfuse.stages.fuse.heads.multiscale import DropPath


@pytest.fixture(scope="module", params=[MAT_LITE, MMT, MAT, MMT_ON_BANKS], ids=name_of)
def head(request: pytest.FixtureRequest) -> Head:
    return build(request.param).eval()


def test_random_numbers_are_the_heads_own(head: Head) -> None:
    tokens, present = clips(head)
    head.train()
    with torch.no_grad():
        outcomes = []
        for draws, noise in ((1, 0), (1, 1000), (2, 0)):
            torch.rand(noise)
            before = torch.random.get_rng_state()
            with dropout_source(generator_masks(draws)):
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
    with dropout_source(generator_masks(0)):
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
        with dropout_source(generator_masks(number)):
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
