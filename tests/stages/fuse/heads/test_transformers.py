"""Cross-attention and the bottleneck: who can see whom, and what they are elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, build_head
from avfuse.stages.fuse.heads.bottleneck import AVBottleneck, BottleneckOptions
from avfuse.stages.fuse.training.overrides import TrainingOverrides

SHAPES = {"video": ModalityShape(5, 12), "audio": ModalityShape(7, 10, prefix=1, grid=(2, 3))}
TARGETS = Targets((LearnedTarget("label", ("a", "b", "c")),))
EVERYONE = {"video": None, "audio": None}
SMALL = {"dim": 16, "heads": 2}


def head_of(name: str, **options: object) -> Head:
    torch.manual_seed(0)
    return build_head(name, SHAPES, TARGETS, TrainingOverrides(**SMALL, **options).options(name)).eval()


def clips(moved: str = "") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    prepared = {name: torch.randn(3, shape.length, shape.dim, generator=generator) for name, shape in SHAPES.items()}
    if moved:
        prepared[moved] = prepared[moved] + torch.randn(prepared[moved].shape, generator=generator)
    return prepared


def depends(head: Head, output: str, on: str) -> bool:
    with torch.no_grad():
        return not torch.allclose(head(clips(), EVERYONE)[output], head(clips(on), EVERYONE)[output], atol=1e-6)


@pytest.mark.parametrize(
    ("reads", "video_sees_audio", "audio_sees_video"),
    [("both", True, True), ("video", True, False), ("audio", False, True)],
)
def test_directions(reads: str, video_sees_audio: bool, audio_sees_video: bool) -> None:
    head = head_of("crossattn", reads=reads)
    assert depends(head, "after_video", "audio") == video_sees_audio
    assert depends(head, "after_audio", "video") == audio_sees_video


def test_without_layers_nothing_crosses() -> None:
    head = head_of("crossattn", layers=0)
    assert not depends(head, "after_video", "audio")
    assert not depends(head, "after_audio", "video")
    assert depends(head, "logits", "audio")


def test_both_sides_read_the_others_old_stream() -> None:
    """V' = V + MHA(LN V, LN A): what the sound becomes in the same layer does not reach the picture."""
    head = head_of("crossattn")
    with torch.no_grad():
        expected = head(clips(), EVERYONE)["after_video"]
        for parameter in head.layers[0].attend["audio"].parameters():
            parameter.add_(1.0)
        torch.testing.assert_close(head(clips(), EVERYONE)["after_video"], expected)
        assert not torch.allclose(head(clips(), EVERYONE)["logits"], head_of("crossattn")(clips(), EVERYONE)["logits"])


@pytest.mark.parametrize("name", ["crossattn", "bottleneck"])
def test_a_grid_is_told_by_its_cls_and_frames_by_their_mean(name: str) -> None:
    outputs = head_of(name)(clips(), EVERYONE)
    torch.testing.assert_close(outputs["after_audio"], outputs["tokens_audio"][:, 0])
    torch.testing.assert_close(outputs["after_video"], outputs["tokens_video"].mean(dim=1))


@pytest.mark.parametrize("name", ["crossattn", "bottleneck"])
def test_before_fusion_a_modality_knows_nothing_of_the_other(name: str) -> None:
    head = head_of(name)
    assert not depends(head, "before_video", "audio")
    assert not depends(head, "before_audio", "video")


@pytest.mark.parametrize(
    ("update", "blocks", "audio_sees_video", "video_sees_audio"),
    [
        ("serial_last", 1, True, False),
        ("serial_last", 2, True, True),
        ("serial_mean", 1, True, False),
        ("serial_mean", 2, True, True),
        ("parallel_mean", 1, False, False),
        ("parallel_mean", 2, True, True),
    ],
)
def test_reach_by_block(update: str, blocks: int, audio_sees_video: bool, video_sees_audio: bool) -> None:
    """In serial updates picture reaches sound within block 1 and sound reaches picture from block 2 on; in parallel
    ones both from block 2 on."""
    head = head_of("bottleneck", update=update, blocks=blocks)
    assert depends(head, "after_audio", "video") == audio_sees_video
    assert depends(head, "after_video", "audio") == video_sees_audio


def mbt(module: AVBottleneck, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Multimodal bottleneck transformer, written down from its equations 8 and 9 with plain functions."""

    def block(weights: torch.nn.Module, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, x.shape[-1:], weights.norm.weight, weights.norm.bias)
        mha = weights.attend.attend
        q, k, v = F.linear(normed, mha.in_proj_weight, mha.in_proj_bias).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (mha.num_heads, -1)).transpose(1, 2) for part in (q, k, v)]
        weight = (heads[0] @ heads[1].transpose(2, 3) / heads[0].shape[-1] ** 0.5).softmax(dim=-1)
        x = x + F.linear((weight @ heads[2]).transpose(1, 2).flatten(2), mha.out_proj.weight, mha.out_proj.bias)
        norm, widen, _, narrow, _ = weights.feed
        normed = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
        return x + F.linear(F.gelu(F.linear(normed, widen.weight, widen.bias)), narrow.weight, narrow.bias)

    shared = module.shared.expand(len(video), -1, -1)
    for of_video, of_audio in zip(module.video_blocks, module.audio_blocks, strict=True):
        one = block(of_video, torch.cat([video, shared], dim=1))
        other = block(of_audio, torch.cat([audio, shared], dim=1))
        video, audio = one[:, : video.shape[1]], other[:, : audio.shape[1]]
        shared = (one[:, video.shape[1] :] + other[:, audio.shape[1] :]) / 2
    return video, audio


def test_parallel_mean_is_mbt() -> None:
    torch.manual_seed(2)
    module = AVBottleneck(BottleneckOptions(dim=16, heads=2, blocks=3, shared=5, update="parallel_mean")).eval()
    video, audio = torch.randn(3, 6, 16), torch.randn(3, 9, 16)
    with torch.no_grad():
        for given, expected in zip(module(video, audio), mbt(module, video, audio), strict=True):
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


def test_the_updates_differ() -> None:
    logits = [
        head_of("bottleneck", update=update)(clips(), EVERYONE)["logits"]
        for update in ("serial_last", "serial_mean", "parallel_mean")
    ]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])


def test_sizes_are_checked() -> None:
    with pytest.raises(UsageError, match="heads=3 does not divide dim=16"):
        TrainingOverrides(dim=16, heads=3).options("crossattn")
    with pytest.raises(UsageError, match=r"update=sideways: .*serial_last"):
        TrainingOverrides(update="sideways").options("bottleneck")
