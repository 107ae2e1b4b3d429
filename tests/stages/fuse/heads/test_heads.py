"""Every head: shapes, masks, and what it can and cannot see."""

import pytest
import torch

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import ModalityShape, build_head, get_head, head_names
from avfuse.stages.fuse.heads.base import STANDARD

SHAPES = {"video": ModalityShape(25, 1280), "audio": ModalityShape(6, 1280)}
BATCH, CLASSES = 4, 12
TARGETS = Targets((LearnedTarget("label", tuple(f"class{number}" for number in range(CLASSES))),))


def clips(seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = {name: torch.randn(BATCH, shape.length, shape.dim, generator=generator) for name, shape in SHAPES.items()}
    return tokens, {name: torch.ones(BATCH, dtype=torch.bool) for name in SHAPES}


@pytest.fixture(params=[*STANDARD, "alpha", "svc", "logreg"])
def head(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_head(request.param, SHAPES, TARGETS).eval()


def test_the_heads_are_there_in_the_order_of_tables() -> None:
    in_order = "audio mat mat_lite video average svc logreg mlp alpha crossattn bottleneck mmt"
    assert head_names() == in_order.split()
    assert set(STANDARD) < set(head_names())


def test_logits_have_a_column_per_class(head: torch.nn.Module) -> None:
    assert head.predict(*clips())["logits"].shape == (BATCH, CLASSES)


def test_a_missing_modality_is_never_read(head: torch.nn.Module) -> None:
    """NaN stands in its place: any use of it would show."""
    for name in SHAPES:
        tokens, present = clips()
        tokens[name][1] = torch.nan
        present[name][1] = False
        logits = head.predict(tokens, present)["logits"]
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[[0, 2, 3]], head.predict(*clips())["logits"][[0, 2, 3]])


def test_gradients_stay_finite_with_missing_modalities(head: torch.nn.Module) -> None:
    tokens, present = clips()
    for index, name in enumerate(SHAPES):
        tokens[name][index] = torch.nan
        present[name][index] = False
    targets = torch.arange(BATCH)
    head.loss(head.predict(tokens, present), present, [targets]).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_joint_heads_depend_on_both_modalities_and_single_ones_on_their_own(head: torch.nn.Module) -> None:
    reference = head.predict(*clips())["logits"]
    for name in SHAPES:
        tokens, present = clips()
        tokens[name] = tokens[name] + torch.randn_like(tokens[name])
        moved = not torch.allclose(head.predict(tokens, present)["logits"], reference, atol=1e-6)
        assert moved == (name in type(head).modalities)


def test_clips_of_a_batch_do_not_see_each_other(head: torch.nn.Module) -> None:
    tokens, present = clips()
    alone = head.predict({n: t[:1] for n, t in tokens.items()}, {n: p[:1] for n, p in present.items()})["logits"]
    torch.testing.assert_close(alone, head.predict(tokens, present)["logits"][:1], rtol=1e-4, atol=1e-5)


def test_average_is_the_mean_of_the_present_modalities_probabilities() -> None:
    head = build_head("average", SHAPES, TARGETS).eval()
    tokens, present = clips()
    present["audio"][0] = False
    outputs = head.predict(tokens, present)
    single = torch.stack([outputs["video"].softmax(1), outputs["audio"].softmax(1)])
    expected = single.mean(dim=0)
    expected[0] = single[0, 0]
    torch.testing.assert_close(outputs["logits"].exp(), expected)


def test_standardisation_comes_from_the_clips_that_have_the_modality() -> None:
    head = build_head("audio", {"audio": ModalityShape(2, 3)}, TARGETS)
    tokens = torch.randn(50, 2, 3) * 5 + 3
    present = torch.rand(50) > 0.2
    tokens[~present] = torch.nan
    head.modality_inputs()["audio"].fit([(tokens, present)])
    seen = head.prepare({"audio": tokens}, {"audio": present})["audio"][present].reshape(-1, 2, 3)
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(dim=0), torch.ones(2, 3), atol=1e-4, rtol=0)


def test_bottleneck_video_reaches_audio_only_through_its_own_blocks_and_the_shared_tokens() -> None:
    head = build_head("bottleneck", SHAPES, TARGETS).eval()
    with torch.no_grad():  # blocks without weights hand their input on: shared tokens then carry nothing of the video
        for block in head.exchange.video_blocks:
            for parameter in block.parameters():
                parameter.zero_()
    moved = []
    for scale in (0.0, 1.0):
        tokens, present = clips()
        tokens["video"] = tokens["video"] * scale
        seen: list[torch.Tensor] = []
        hook = head.exchange.audio_blocks[-1].register_forward_hook(
            lambda _m, _i, out, seen=seen: seen.append(out[:, 4:])
        )
        with torch.no_grad():
            head.predict(tokens, present)
        hook.remove()
        moved.append(seen[0])
    torch.testing.assert_close(moved[0], moved[1])


def test_an_unknown_head_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown fusion 'gated': choose from audio.*AVFUSE_HEADS=FILE\.py"):
        get_head("gated")
