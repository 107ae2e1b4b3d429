"""Any encoder of transformers gives the same features as in its library, on inputs prepared by its own processor, and
no code of a repository runs. Checkpoints are tiny, of random numbers, in their true layout."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from adapted import PIXELS, SAMPLES, close, encode, frames, prepared
from safetensors.torch import save_file

from avfuse.features import backbones
from avfuse.features.backbones import WeightsChoice
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.inputs.hf_audio import hf_audio_features

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SQUARE = {"height": 32, "width": 32}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}


def of_dinov2() -> tuple[Any, Any]:
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=28, patch_size=14))
    return model, transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 28, "width": 28})


def of_dinov3() -> tuple[Any, Any]:
    config = transformers.DINOv3ViTConfig(**SMALL, image_size=32, patch_size=16, num_register_tokens=4)
    return transformers.DINOv3ViTModel(config), transformers.DINOv3ViTImageProcessor(size=SQUARE)


def of_siglip() -> tuple[Any, Any]:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    return transformers.SiglipModel(config), transformers.SiglipImageProcessor(size=SQUARE)


def of_clip() -> tuple[Any, Any]:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    return transformers.CLIPModel(config), transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)


def of_vit_without_a_pooler() -> tuple[Any, Any]:
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    return transformers.ViTForImageClassification(config), transformers.ViTImageProcessor(size=SQUARE)


def of_videomae() -> tuple[Any, Any]:
    config = transformers.VideoMAEConfig(**SMALL, image_size=32, patch_size=16, num_frames=4, tubelet_size=2)
    model = transformers.VideoMAEForVideoClassification(config)
    return model, transformers.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)


def of_vjepa2() -> tuple[Any, Any]:
    config = transformers.VJEPA2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2.0, crop_size=32, patch_size=16,
        frames_per_clip=4, tubelet_size=2, pred_hidden_size=12, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    processor = transformers.VJEPA2VideoProcessor(size={"shortest_edge": 36}, crop_size=SQUARE)
    return transformers.VJEPA2Model(config), processor


def of_clap() -> tuple[Any, Any]:
    audio = transformers.ClapAudioConfig(
        patch_embeds_hidden_size=16, hidden_size=128, depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        num_hidden_layers=4, projection_dim=16,
    )  # fmt: skip
    config = transformers.ClapConfig(text_config=TEXT, audio_config=audio.to_dict(), projection_dim=16)
    return transformers.ClapModel(config), transformers.ClapFeatureExtractor(truncation="rand_trunc")


def of_whisper() -> tuple[Any, Any]:
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=60, pad_token_id=1, bos_token_id=2, eos_token_id=3,
        decoder_start_token_id=2,
    )  # fmt: skip
    return transformers.WhisperModel(config), transformers.WhisperFeatureExtractor()


def of_ast() -> tuple[Any, Any]:
    config = transformers.ASTConfig(**SMALL, max_length=128)
    return transformers.ASTForAudioClassification(config), transformers.ASTFeatureExtractor(max_length=128)


Made = Callable[[], tuple[Any, Any]]


def saved(make: Made, folder: Path) -> tuple[Any, Any, str]:
    torch.manual_seed(0)
    model, processor = make()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, f"hf:{folder}"


@pytest.mark.parametrize(
    ("make", "grid", "prefix"),
    [
        (of_dinov2, (2, 2), 1),
        (of_dinov3, (2, 2), 5),
        (of_siglip, (4, 4), 0),
        (of_clip, (4, 4), 1),
        (of_vit_without_a_pooler, (4, 4), 1),
    ],
)
@torch.inference_mode()
def test_transformers_pictures(make: Made, grid: tuple[int, int], prefix: int, tmp_path: Path) -> None:
    model, processor, name = saved(make, tmp_path)
    inputs = torch.as_tensor(np.asarray(processor(PIXELS, return_tensors="np")["pixel_values"]))
    inner = getattr(model, "vision_model", None) or getattr(model, "vit", model)
    reference = inner(inputs)
    encoded = encode(name, prepared(name))
    tolerance = 2e-2 if make is of_dinov3 else 5e-3  # its processor leaves resized noise unrounded
    close(encoded.tokens, reference.last_hidden_state, tolerance)
    pooled = reference.last_hidden_state[:, 0] if reference.pooler_output is None else reference.pooler_output
    close(encoded.pooled, pooled, tolerance)
    (spec,) = resolve([f"{name}:frames:tokens"], sampling="uniform:2")
    assert spec.grid == grid
    assert spec.shape == (2, prefix + grid[0] * grid[1], encoded.pooled.shape[1])


@pytest.mark.parametrize("make", [of_videomae, of_vjepa2])
@torch.inference_mode()
def test_transformers_videos(make: Made, tmp_path: Path) -> None:
    model, processor, name = saved(make, tmp_path)
    if make is of_vjepa2:
        inputs = torch.as_tensor(np.asarray(processor(videos=frames(4), return_tensors="np")["pixel_values_videos"]))
        reference = model.get_vision_features(inputs)
    else:
        inputs = torch.as_tensor(np.asarray(processor(frames(4), return_tensors="np")["pixel_values"]))
        reference = model.videomae(inputs).last_hidden_state
    encoded = encode(name, prepared(name, 4))
    close(encoded.tokens, reference)
    close(encoded.pooled, reference.mean(dim=1))
    (spec,) = resolve([f"{name}:clip:tokens"])
    assert (spec.grid, spec.shape, spec.input.sampling) == ((2, 2, 2), (8, 32), "uniform:4")


@pytest.mark.parametrize("make", [of_clap, of_whisper, of_ast])
@torch.inference_mode()
def test_transformers_sounds(make: Made, tmp_path: Path) -> None:
    model, extractor, name = saved(make, tmp_path)
    rate = extractor.sampling_rate
    (spec,) = resolve([f"{name}:sound"])
    assert spec.input.rate_hz == rate
    short = SAMPLES[:rate]
    inputs = extractor(short, sampling_rate=rate, return_tensors="pt")
    if make is of_clap:
        reference = model.audio_model(inputs["input_features"], is_longer=torch.zeros(1, 1, dtype=torch.bool))
        pooled = reference.pooler_output
    elif make is of_whisper:
        pooled = model.get_encoder()(inputs["input_features"]).last_hidden_state.mean(dim=1)
    else:
        pooled = model.audio_spectrogram_transformer(inputs["input_values"]).pooler_output
    ours = hf_audio_features(spec.input.extractor, short, rate)
    assert ours.shape == spec.input.shape
    encoded = encode(name, torch.from_numpy(ours)[None])
    close(encoded.pooled, pooled.flatten(1))
    assert spec.shape == encoded.pooled.shape[1:]


def test_a_folders_weights_and_configuration_are_in_the_key(tmp_path: Path) -> None:
    _, _, name = saved(of_dinov2, tmp_path)
    first = resolve([f"{name}:frames"])[0]
    config = tmp_path / "config.json"
    config.write_text(config.read_text() + "\n")
    assert resolve([f"{name}:frames"])[0].key != first.key
    random = resolve([f"{name}:frames"], weights=WeightsChoice("random"))[0]
    assert random.untrained
    assert not first.untrained
    assert "/" not in first.folder


def test_weights_without_their_configuration_are_refused(tmp_path: Path) -> None:
    _, _, name = saved(of_dinov2, tmp_path)
    with pytest.raises(UsageError, match="is one file"):
        encode(name, prepared(name), str(tmp_path / "model.safetensors"))


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    model, _, name = saved(of_dinov2, tmp_path)
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("layernorm")}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"2 tensors are missing"):
        encode(name, prepared(name))


def test_a_processor_that_does_something_else_is_refused(tmp_path: Path) -> None:
    _, _, name = saved(of_dinov2, tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="processor") as caught:
        backbones.get_backbone(name)
    assert "\n" not in str(caught.value)


@pytest.fixture
def answers_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody at the terminal who says y to whatever is asked."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))


OWN_CODE = "from pathlib import Path\nPath(__file__).with_name('EXECUTED').touch()\nPath('EXECUTED').touch()\n"


@pytest.mark.parametrize("part", ["config.json", "preprocessor_config.json"])
@pytest.mark.usefixtures("answers_yes")
def test_code_in_a_repository_never_runs(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "theirs"
    saved(of_dinov2, folder)
    (folder / "theirs.py").write_text(OWN_CODE)
    config = json.loads((folder / part).read_text())
    for key, value in (
        ("model_type", "theirs"),
        ("image_processor_type", "Theirs"),
        ("feature_extractor_type", "Theirs"),
    ):
        config.update({key: value} if key in config else {})
    classes = ("AutoConfig", "AutoModel", "AutoImageProcessor", "AutoVideoProcessor", "AutoFeatureExtractor")
    config["auto_map"] = dict.fromkeys(classes, "theirs.Theirs")
    (folder / part).write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"never runs code that comes with weights: .*AVFUSE_BACKBONES") as caught:
        resolve([f"hf:{folder}:frames"])
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.rglob("EXECUTED")]
    assert "[y/N]" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("answers_yes")
def test_code_beside_weights_that_need_none_does_not_run_either(tmp_path: Path) -> None:
    _, _, name = saved(of_dinov2, tmp_path)
    (tmp_path / "theirs.py").write_text(OWN_CODE)
    for part in ("config.json", "preprocessor_config.json"):
        config = json.loads((tmp_path / part).read_text())
        classes = ("AutoConfig", "AutoModel", "AutoImageProcessor", "AutoVideoProcessor")
        config["auto_map"] = dict.fromkeys(classes, "theirs.Theirs")
        (tmp_path / part).write_text(json.dumps(config))
    encode(name, prepared(name))
    assert not [*tmp_path.rglob("EXECUTED")]


def test_a_kernel_of_somebodys_repository_is_not_fetched(tmp_path: Path) -> None:
    _, _, name = saved(of_dinov2, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attn_implementation": "some/kernel"}))
    with pytest.raises(UsageError, match="never runs code"):
        resolve([f"{name}:frames"])
