"""Stage one on the device: what reaches the cache does not depend on processes, pinned memory or what fits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from avfuse import features
from avfuse.features.backbones import Encoded, get_backbone
from avfuse.features.backbones.loading import Encoder, load
from avfuse.features.backbones.weights import find_weights
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.spec import Precision, Preprocess
from avfuse.stages.extract import plan as planning
from avfuse.stages.extract.encode import Batcher, OutputLayout, OutputSlot
from avfuse.stages.extract.run import extract

POOLED = OutputLayout(None, None)
ASKED = ("lite:frames", "lite:mfcc")


def rows(
    folder: Path, cache: Path, device: str, precision: Precision = "float32", workers: int = 1
) -> dict[tuple[str, str], np.ndarray]:
    """What is in the cache after an extraction, by feature and clip."""
    specs = resolve(ASKED, sampling="uniform:3", precision=precision)
    clips = [Clip(name, folder / f"{name}.avi") for name in ("good", "no_sound", "other", "silent")]
    summary = extract(clips, specs, cache, "set", device=device, workers=workers, progress=False)
    assert not summary.problems
    table = {}
    for spec in specs:
        loaded = features.load("set", spec.name, cache)
        table |= {(spec.name, clip): row for clip, row in zip(loaded.clip_ids, loaded.data, strict=True)}
    return table


@pytest.mark.slow
def test_the_cache_holds_on_the_device_what_it_holds_on_the_cpu(media: Path, tmp_path: Path, device: str) -> None:
    found, expected = (rows(media, tmp_path / each.replace(":", ""), each) for each in (device, "cpu"))
    assert found.keys() == expected.keys()
    for key, row in found.items():
        np.testing.assert_allclose(row, expected[key], rtol=5e-3, atol=5e-3, err_msg=str(key))  # float16 on disk


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_reaches_the_cache(media: Path, tmp_path: Path, precision: Precision, device: str) -> None:
    found, expected = (rows(media, tmp_path / each, device, each) for each in (precision, "float32"))
    for key, row in found.items():
        assert np.isfinite(row.astype(np.float32)).all()
        error = np.linalg.norm((row - expected[key]).astype(np.float64))
        assert error < 0.1 * np.linalg.norm(expected[key].astype(np.float64)), key


@pytest.mark.slow
def test_two_processes_on_one_device_write_the_bytes_of_one(
    media: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CHUNK_CLIPS", 2)
    one = rows(media, tmp_path / "one", device)
    two = rows(media, tmp_path / "two", f"{device},{device}", workers=2)
    assert {key: row.tobytes() for key, row in one.items()} == {key: row.tobytes() for key, row in two.items()}


def through_batches(encoder: Encoder, pictures: np.ndarray, size: int, device: str) -> np.ndarray:
    lite = get_backbone("lite")
    batcher = Batcher(encoder, lite.preprocess, pictures.shape[1:], np.uint8, size, device)
    found = np.full((len(pictures), lite.feature_dim), np.nan, np.float32)
    for number, picture in enumerate(pictures):
        batcher.add(picture, [OutputSlot(POOLED, found[number])])
    batcher.flush()
    return found


def at_once(encoder: Encoder, pictures: np.ndarray, size: int) -> np.ndarray:
    """The same batches, each waited for, from memory that is not pinned."""
    every = torch.from_numpy(pictures).split(size)
    return torch.cat(
        [encoder(batch.clone(), get_backbone("lite").preprocess).pooled.float().cpu() for batch in every]
    ).numpy()


def made_up_pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def lite_on(device: str) -> Encoder:
    return load(get_backbone("lite"), find_weights(get_backbone("lite").checkpoint), device)


class Late:
    """A network that the device begins late on each batch, as behind a long queue: a buffer that is filled again too
    early then holds the next batch's pictures."""

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.encoder = encoder
        side = 4096 if device.startswith("cuda") else 64
        self.product = torch.ones(side, side, device=device)

    def __call__(self, items: torch.Tensor, preprocess: Preprocess | None) -> Encoded:
        for _ in range(20):
            self.product = self.product @ self.product * 0
        return self.encoder(items, preprocess)


def test_batches_gathered_while_others_are_at_work_give_the_same_bytes(device: str) -> None:
    size, batches = (32, 24) if device.startswith("cuda") else (2, 4)
    pictures, encoder = made_up_pictures(size * batches), lite_on(device)
    expected = at_once(encoder, pictures, size)
    assert through_batches(encoder, pictures, size, device).tobytes() == expected.tobytes()
    assert through_batches(Late(encoder, device), pictures, size, device).tobytes() == expected.tobytes()


class TooLarge:
    """A network that runs out of memory with more than so many items at once."""

    def __init__(self, encoder: Encoder, most: int) -> None:
        self.encoder, self.most = encoder, most
        self.sizes: list[int] = []

    def __call__(self, items: torch.Tensor, preprocess: Preprocess | None) -> Encoded:
        self.sizes.append(len(items))
        if len(items) > self.most:
            raise torch.OutOfMemoryError("no more")
        return self.encoder(items, preprocess)


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_batch_too_large_for_the_device_is_halved(device: str) -> None:
    pictures, network = made_up_pictures(8), TooLarge(lite_on(device), most=2)
    found = through_batches(network, pictures, 8, device)
    assert network.sizes == [8, 4, 2, 2, 2, 2]
    assert_alike(found, at_once(network.encoder, pictures, 2))


def test_memory_that_runs_out_on_the_device_costs_no_picture(device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("a limit on memory is CUDA's")
    pictures, network = made_up_pictures(256), TooLarge(lite_on(device), most=10**9)
    expected = at_once(network.encoder, pictures, 16)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    at_once(network.encoder, pictures[:256], 256)
    needed = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + needed / 2) / total, device)
    try:
        found = through_batches(network, pictures, 256, device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert min(network.sizes) < 256
    assert_alike(found, expected)
