"""Audio images and filter banks as cached features, and backbones on cached images."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from avfuse import features
from avfuse.features.audio_images import list_audio_images, render
from avfuse.features.backbones import get_backbone
from avfuse.features.backbones.loading import load
from avfuse.features.backbones.weights import find_weights
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.inputs.filter_bank import filter_banks
from avfuse.features.media import decode, write_video
from avfuse.features.spec import FeatureSpec
from avfuse.stages.extract import plan as planning
from avfuse.stages.extract.run import ExtractSummary, extract

CLIPS = ("one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of different sounds, and one without."""
    folder = tmp_path_factory.mktemp("clips")
    frames = np.full((30, 32, 48, 3), 90, np.uint8)
    for number, name in enumerate(CLIPS):
        time = np.arange(2 * 22050) / 22050
        sound = 0.4 * np.sin(2 * np.pi * (200 + 150 * number * time) * time) * (np.sin(5 * time) > 0)
        write_video(folder / f"{name}.avi", frames, fps=15, waveform=sound.astype(np.float32), sample_rate_hz=22050)
    write_video(folder / "mute.avi", frames, fps=15)
    return folder


def run(folder: Path, cache: Path, *names: str, **options: object) -> ExtractSummary:
    clips = [Clip(path.stem, path) for path in sorted(folder.glob("*.avi"))]
    specs = resolve(names)
    return extract(clips, specs, cache, "set", device="cpu", progress=False, **options)  # type: ignore[arg-type]


def rows(cache: Path, name: str) -> dict[str, np.ndarray]:
    table = features.load("set", name, cache)
    return dict(zip(table.clip_ids, table.data, strict=True))


def hashes(cache: Path, names: list[str]) -> dict[str, str]:
    return {
        f"{name} {clip}": hashlib.sha256(pixels.tobytes()).hexdigest()
        for name in names
        for clip, pixels in rows(cache, name).items()
    }


def test_cached_pictures_are_the_rendered_ones_whatever_the_order_and_the_workers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"image:{name}{style}" for name in list_audio_images() for style in ("", "-paper")]
    golden = {}
    for clip in CLIPS:
        sound = decode(folder / f"{clip}.avi", frames=None).waveform
        assert sound is not None
        for style, ending in (("aligned", ""), ("paper", "-paper")):
            for name, pixels in render(sound.samples, sound.rate_hz, style=style).items():  # type: ignore[arg-type]
                golden[f"image:{name}{ending} {clip}"] = hashlib.sha256(pixels.tobytes()).hexdigest()
    summary = run(folder, tmp_path / "one", *names, workers=1)
    assert summary.no_audio == ["mute"]
    assert hashes(tmp_path / "one", names) == golden
    monkeypatch.setattr(planning, "CHUNK_CLIPS", 2)
    run(folder, tmp_path / "three", *reversed(names), workers=3)
    assert hashes(tmp_path / "three", names) == golden


def test_pictures_are_kept_as_bytes(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "image:mfcc")
    table = features.load("set", "image:mfcc", tmp_path)
    assert (table.data.dtype, table.data.shape) == (np.uint8, (3, 224, 224, 3))


@pytest.mark.parametrize("style", ["", "-paper"])
def test_a_backbone_needs_no_media_where_its_pictures_are_cached(folder: Path, tmp_path: Path, style: str) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.glob("*.avi"):
        (moved / path.name).write_bytes(path.read_bytes())
    names = [f"lite:chromagram{style}", f"lite:chromagram{style}:h"]
    run(moved, tmp_path / "direct", *names)
    run(moved, tmp_path / "cache", f"image:chromagram{style}")
    clips = [Clip(path.stem, path) for path in sorted(moved.glob("*.avi"))]
    for clip in clips:
        clip.path.unlink()
    summary = extract(clips, resolve(names), tmp_path / "cache", "set", device="cpu", progress=False)
    assert [(feature.done, feature.no_audio, feature.failed) for feature in summary.features] == [(3, 1, 0), (3, 1, 0)]
    for name in names:
        direct, drawn = rows(tmp_path / "direct", name), rows(tmp_path / "cache", name)
        for clip in CLIPS:
            np.testing.assert_array_equal(direct[clip], drawn[clip])


@pytest.mark.slow
def test_views_are_the_mirrored_picture_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "image:chromagram:flips", "lite:chromagram:flips")
    seen = {view: rows(tmp_path, f"image:chromagram{view}")["two"] for view in ("", ":h", ":v", ":hv")}
    np.testing.assert_array_equal(seen[":h"], seen[""][:, ::-1])
    np.testing.assert_array_equal(seen[":v"], seen[""][::-1])
    np.testing.assert_array_equal(seen[":hv"], seen[""][::-1, ::-1])
    lite = get_backbone("lite")
    encode, preprocess = load(lite, find_weights(lite.checkpoint), "cpu"), lite.preprocess
    for view, pixels in seen.items():
        expected = encode(torch.tensor(pixels.copy())[None], preprocess).pooled[0].numpy()
        stored = rows(tmp_path, f"lite:chromagram{view}")["two"]
        np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-3)  # float16 on disk


def test_frames_have_a_mirrored_view(folder: Path, tmp_path: Path) -> None:
    (plain, mirrored) = resolve(["lite:frames", "lite:frames:h"], sampling="uniform:2")
    assert plain.input == mirrored.input  # decoded once
    half = np.zeros((10, 64, 64, 3), np.uint8)
    half[:, :, :32] = 200
    for name, frames in (("left", half), ("right", half[:, :, ::-1])):
        write_video(tmp_path / f"{name}.avi", np.ascontiguousarray(frames), fps=10)
    clips = [Clip(name, tmp_path / f"{name}.avi") for name in ("left", "right")]
    extract(clips, [plain, mirrored], tmp_path / "cache", "set", device="cpu", progress=False)
    left, right = rows(tmp_path / "cache", "lite:frames"), rows(tmp_path / "cache", "lite:frames:h")
    np.testing.assert_allclose(left["left"].astype(float), right["right"].astype(float), atol=0.25)
    assert np.abs(left["left"].astype(float) - right["left"]).max() > 0.5


def test_filter_banks_are_cached(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "audio:fbank", "lite:mfcc")
    banks = rows(tmp_path, "audio:fbank")
    sound = decode(folder / "two.avi", frames=None, rate_hz=16_000).waveform
    assert sound is not None
    np.testing.assert_array_equal(banks["two"], filter_banks([sound.samples])[0])
    assert banks["two"].dtype == np.float32


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(UsageError, match="pretty"):
        resolve(["lite:mfcc"], style="pretty")  # type: ignore[arg-type]


@pytest.mark.slow
def test_windows_and_filter_banks_are_features_like_others(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "lite:frames:windows2", "lite:fbank", "lite:fbank:tokens2x16")
    table = features.load("set", "lite:fbank:tokens2x16", tmp_path)
    assert (table.data.shape, table.clip_ids) == ((3, 32, 1280), sorted(CLIPS))
    np.testing.assert_allclose(
        table.data.astype(float).mean(axis=1), features.load("set", "lite:fbank", tmp_path).data, atol=2e-3
    )
    assert features.load("set", "lite:frames:2of2", tmp_path).data.shape == (4, 25, 1280)


@pytest.mark.slow
def test_precision_is_computed_with_and_kept_apart(folder: Path, tmp_path: Path) -> None:
    clips = [Clip("one", folder / "one.avi")]
    for precision in ("float32", "bfloat16"):
        extract(
            clips, resolve(["lite:mfcc"], precision=precision), tmp_path, "set", device="cpu", progress=False, workers=1
        )
    full, half = (features.load("set", f"lite:mfcc@{spec.key}", tmp_path).data for spec in both_precisions())
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.2)


def both_precisions() -> list[FeatureSpec]:
    return [resolve(["lite:mfcc"], precision=precision)[0] for precision in ("float32", "bfloat16")]
