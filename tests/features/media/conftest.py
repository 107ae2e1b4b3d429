"""The files that tests of reading share."""

from pathlib import Path

import numpy as np
import pytest
from media_zoo import FRAMES, HEIGHT, READABLE, WIDTH, click, cut_at, encode, pictures


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file of READABLE, and some that are odd in other ways."""
    folder = tmp_path_factory.mktemp("zoo")
    for name, make in READABLE.items():
        make(folder / name)
    encode(folder / "one_frame.mp4", pictures(1, flash=None))
    encode(folder / "sound_only.m4a", None, click())
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    avi = {"video_codec": "mpeg4", "audio_codec": "libmp3lame"}
    cut_at(encode(folder / "half.avi", noise, click(), **avi), 0.5)
    cut_at(encode(folder / "most.avi", noise, click(), **avi), 0.9)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video\n")
    return folder
