"""Media that tests make for themselves, and real clips where a folder of them is at hand."""

import os
from collections.abc import Iterator
from pathlib import Path

import clean_environment  # noqa: F401 - what it cleans, libraries read when they are imported
import numpy as np
import pytest
import torch
from checkout import ROOT

from avfuse.features.media import write_video

torch.set_num_threads(1)  # tests run side by side: more threads than cores make each of them wait for the others

REAL_DATA = Path(os.environ.get("AVFUSE_REAL_DATA", ROOT.parent / "shared" / "data"))
"""Real clips are used in addition where they are; everything passes without them."""


def moving_square(seconds: float = 2.0, fps: int = 25, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 (T, H, W, 3): each frame's mean brightness rises with its index, so that a frame tells its rank."""
    count = round(seconds * fps)
    generator = np.random.default_rng(seed)
    backdrop = generator.integers(0, 40, (height, width, 3))
    frames = np.stack([backdrop + 30 + 4 * (index % 45) for index in range(count)])
    return frames.clip(0, 255).astype(np.uint8)


def tone(seconds: float = 2.0, rate_hz: int = 44100, frequency_hz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.4 * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


@pytest.fixture(scope="session", autouse=True)
def _archives_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices of archives are kept here and not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVFUSE_ARCHIVES", str(tmp_path_factory.mktemp("archives")))
        yield


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small clips: one good, one without sound, one silent, one cut short, one that is text, one empty."""
    folder = tmp_path_factory.mktemp("media")
    frames = moving_square()
    write_video(folder / "good.avi", frames, fps=25, waveform=tone(), sample_rate_hz=44100)
    write_video(folder / "other.avi", frames[::-1], fps=25, waveform=tone(frequency_hz=900), sample_rate_hz=44100)
    write_video(folder / "no_sound.avi", frames, fps=25)
    write_video(folder / "silent.avi", frames, fps=25, waveform=0 * tone(), sample_rate_hz=44100)
    noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), dtype=np.uint8)
    write_video(folder / "whole.avi", noise, fps=25, waveform=tone(), sample_rate_hz=44100)
    content = (folder / "whole.avi").read_bytes()
    (folder / "whole.avi").unlink()
    (folder / "cut_short.avi").write_bytes(content[: len(content) // 3])
    (folder / "text.avi").write_text("this is not a video\n")
    (folder / "empty.avi").touch()
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real clips at {REAL_DATA} (set AVFUSE_REAL_DATA)")
    return REAL_DATA


LONGEST = ("test_pages.py", "test_all_backbones.py", "test_page_in_browser.py", "test_main.py", "test_ablate.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that none runs on alone."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
